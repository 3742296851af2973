package files

import (
	"path"
	"strings"
)

// contentTypes by extension, so that what a browser is told does not depend on
// what is installed on the machine. Texts are UTF-8.
var contentTypes = map[string]string{
	".avif":        "image/avif",
	".bmp":         "image/bmp",
	".css":         "text/css; charset=utf-8",
	".csv":         "text/csv; charset=utf-8",
	".doc":         "application/msword",
	".docx":        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	".eot":         "application/vnd.ms-fontobject",
	".gif":         "image/gif",
	".gz":          "application/gzip",
	".htm":         "text/html; charset=utf-8",
	".html":        "text/html; charset=utf-8",
	".ico":         "image/vnd.microsoft.icon",
	".jpeg":        "image/jpeg",
	".jpg":         "image/jpeg",
	".js":          "text/javascript; charset=utf-8",
	".json":        "application/json",
	".m4a":         "audio/mp4",
	".m4v":         "video/mp4",
	".map":         "application/json",
	".md":          "text/markdown; charset=utf-8",
	".mjs":         "text/javascript; charset=utf-8",
	".mp3":         "audio/mpeg",
	".mp4":         "video/mp4",
	".odp":         "application/vnd.oasis.opendocument.presentation",
	".ods":         "application/vnd.oasis.opendocument.spreadsheet",
	".odt":         "application/vnd.oasis.opendocument.text",
	".oga":         "audio/ogg",
	".ogg":         "audio/ogg",
	".ogv":         "video/ogg",
	".otf":         "font/otf",
	".pdf":         "application/pdf",
	".png":         "image/png",
	".ppt":         "application/vnd.ms-powerpoint",
	".pptx":        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
	".properties":  "text/plain; charset=utf-8",
	".srt":         "application/x-subrip",
	".svg":         "image/svg+xml",
	".tar":         "application/x-tar",
	".ttf":         "font/ttf",
	".txt":         "text/plain; charset=utf-8",
	".vtt":         "text/vtt; charset=utf-8",
	".wasm":        "application/wasm",
	".wav":         "audio/wav",
	".webm":        "video/webm",
	".webmanifest": "application/manifest+json",
	".webp":        "image/webp",
	".woff":        "font/woff",
	".woff2":       "font/woff2",
	".xls":         "application/vnd.ms-excel",
	".xlsx":        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
	".xml":         "application/xml",
	".zip":         "application/zip",
}

// TypeOf is the media type of a file by its name; browsers are told not to
// guess at what it does not know.
func TypeOf(name string) string {
	if t := contentTypes[strings.ToLower(path.Ext(name))]; t != "" {
		return t
	}
	return "application/octet-stream"
}

// Caching of an answer (RFC 9111 section 5.2, RFC 8246).
const (
	cacheForever = "public, max-age=31536000, immutable"
	cacheAsk     = "no-cache" // which means: ask, and get 304
)

func cachingOf(name string) string {
	if isHashed(name) {
		return cacheForever
	}
	return cacheAsk
}

// isHashed says whether a file's name changes with its content, as bundlers make
// them: app.3f9a77c2.js, 3f9a77c2.js, app.3f9a77c2.js.map. A part of the name
// counts when it has at least 8 characters, all of them hexadecimal digits, some
// of them letters and some not: 20241231 is a date.
func isHashed(name string) bool {
	name = path.Base(name)
	start := 0
	for i := range len(name) {
		switch name[i] {
		case '.':
			if isHash(name[start:i]) {
				return true
			}
			start = i + 1
		case '-', '_', '~':
			start = i + 1
		}
	}
	return false // what follows the last dot is the extension
}

func isHash(s string) bool {
	var digits, letters int
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c >= 'a' && c <= 'f':
			letters++
		default:
			return false
		}
	}
	return len(s) >= 8 && digits > 0 && letters > 0
}
