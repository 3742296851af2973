//go:build !full

package proxy

// How often an upstream is killed under load.
const kills = 20
