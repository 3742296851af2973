//go:build full

package proxy

const kills = 100
