package proxy

import (
	"errors"
	"net/http"
	"path"
	"strconv"
	"time"

	"tarima/proxy/files"
)

// static serves a file of the site's static folder.
func (x *exchange) static(d destination) {
	if x.r.Method != http.MethodGet && x.r.Method != http.MethodHead {
		x.w.Header().Set("Allow", "GET, HEAD")
		x.page(http.StatusMethodNotAllowed, "method")
		return
	}
	folder := x.s.cfg.StaticDir(d.host.Site)
	if folder == "" {
		x.page(http.StatusNotFound, "missing")
		return
	}
	name := d.rest
	if !d.rule.prefix && d.rule.elements != nil {
		name = path.Base(x.r.URL.Path)
	}
	begun, err := x.s.files.Serve(x.w, x.r, files.Ask{Base: folder, Root: d.rule.Root, Name: name, SPA: d.rule.SPA})
	switch {
	case err == nil:
	case begun:
		// The client must not take a part for the whole.
		x.note = err.Error()
		panic(http.ErrAbortHandler)
	case errors.Is(err, files.ErrNotFound):
		x.page(http.StatusNotFound, "missing")
	case errors.Is(err, files.ErrNotAcceptable):
		x.page(http.StatusNotAcceptable, "encoding")
	default:
		x.note = err.Error()
		x.s.limits.guests.complain("a static file cannot be read", "site", d.host.Site, "root", d.rule.Root, "error", err)
		x.w.Header().Set("Retry-After", strconv.Itoa(int(retryWait/time.Second)))
		x.page(http.StatusServiceUnavailable, "broken")
	}
}
