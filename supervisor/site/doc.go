// Package site reads the site file, /etc/tarima/tarima.toml: what an
// administrator asks of one site, in the administrator's words.
//
// [Parse] is strict. It knows every key, gathers every mistake of the file and
// reports each with its line and column, what is allowed there and the nearest
// right name. [Defaults] fills in what the file leaves open from the host that
// it runs on ([DetectHost]). [Diff] tells two site files apart in words.
//
// The package knows names, sizes and shapes. What a service needs to run is
// known by the package openedx.
package site
