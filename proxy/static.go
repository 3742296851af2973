package proxy

import (
	"errors"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// hashedName is a file whose name changes with its content, as bundlers make
// them: app.3f9a77c2.js.
var hashedName = regexp.MustCompile(`[.-][0-9a-f]{8,}\.`)

// static serves a file of the site's static folder. os.Root sees to it that
// neither the path nor a symbolic link leads out of the rule's folder.
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
	root, err := openRoot(folder, d.rule.Root)
	if err != nil {
		x.s.logger.Warn("static folder", "site", d.host.Site, "root", d.rule.Root, "error", err)
		x.page(http.StatusNotFound, "missing")
		return
	}
	defer func() { _ = root.Close() }() // read only
	name := d.rest
	if !d.rule.prefix && d.rule.elements != nil {
		name = path.Base(x.r.URL.Path)
	}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if strings.Contains(name, "/.") || strings.HasPrefix(name, ".") {
		x.page(http.StatusNotFound, "missing")
		return
	}
	f, info, name, err := openFile(root, name)
	if err != nil && d.rule.SPA {
		f, info, name, err = openFile(root, "index.html")
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			x.note = err.Error()
		}
		x.page(http.StatusNotFound, "missing")
		return
	}
	defer func() { _ = f.Close() }() // read only

	h := x.w.Header()
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		h.Set("Content-Type", t)
	} else {
		h.Set("Content-Type", "application/octet-stream")
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("ETag", `"`+strconv.FormatInt(info.ModTime().UnixNano(), 36)+"-"+strconv.FormatInt(info.Size(), 36)+`"`)
	if hashedName.MatchString(path.Base(name)) {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache") // which means: ask, and get 304
	}
	http.ServeContent(x.w, x.r, name, info.ModTime(), f)
}

func openRoot(folder, below string) (*os.Root, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // read only
	return root.OpenRoot(path.Clean(below))
}

// openFile opens a regular file, of a folder its index.html.
func openFile(root *os.Root, name string) (*os.File, fs.FileInfo, string, error) {
	if name == "" {
		name = "index.html"
	}
	info, err := root.Stat(name)
	if err == nil && info.IsDir() {
		name = path.Join(name, "index.html")
		info, err = root.Stat(name)
	}
	if err != nil {
		return nil, nil, name, err
	}
	// Before it is opened: a FIFO would block, a device might do anything.
	if !info.Mode().IsRegular() {
		return nil, nil, name, fs.ErrNotExist
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, nil, name, err
	}
	if info, err = f.Stat(); err != nil {
		_ = f.Close() // the first error is told
		return nil, nil, name, err
	}
	return f, info, name, nil
}
