package proxy

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Pages that the proxy itself answers with: one HTML template, and the texts
// in one file per language. A test holds the languages together.

//go:embed pages
var pageFiles embed.FS

// languages of the pages; the site's own comes first, otherwise this order.
var languages = []string{"es", "en"}

var (
	pageTexts    = mustTexts()
	pageStyle    = mustRead("pages/page.css")
	pageTemplate = template.Must(template.New("page").Parse(mustRead("pages/page.html")))
	// The style is the only thing that a page may load.
	pagePolicy = "default-src 'none'; style-src '" + sourceSum("pages/page.css") + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	// The page that asks for work has its program and its form beside.
	proofProgram = mustRead("pages/proof.js")
	proofPolicy  = strings.Replace(pagePolicy, "form-action 'none'", "script-src '"+sourceSum("pages/proof.js")+"'; form-action 'self'", 1)
)

func mustRead(name string) string {
	b, err := pageFiles.ReadFile(name)
	if err != nil {
		panic(err) // embedded: it is there or the program was not built
	}
	return string(b)
}

func mustTexts() map[string]map[string]string {
	all := map[string]map[string]string{}
	for _, l := range languages {
		var texts map[string]string
		if err := json.Unmarshal([]byte(mustRead("pages/"+l+".json")), &texts); err != nil {
			panic(fmt.Sprintf("pages/%s.json: %v", l, err)) // embedded, and read by the tests
		}
		all[l] = texts
	}
	return all
}

// sourceSum names a file for the Content-Security-Policy.
func sourceSum(name string) string {
	sum := sha256.Sum256([]byte(mustRead(name)))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

type pageSection struct {
	Language, Title, Text, Contact string
	Until                          string // what stands before the time
	Script                         string // what a browser without scripts is told of a challenge
}

type pageData struct {
	Language string
	Title    string
	SiteName string
	Contact  string
	Mail     bool
	Status   int
	Refresh  int // seconds; 0: the page stays
	Style    template.CSS
	Sections []pageSection

	Until     time.Time // zero: nobody knows
	Zone      string
	Challenge *challenge
	Program   template.JS // that does the challenge's work
}

// retryWait tells clients when to ask again.
const (
	retryWait = 5 * time.Second
	retryDown = time.Minute
)

// unavailable answers 503: "wait" while the service is on its way, "down" when
// it is switched off.
func (x *exchange) unavailable(message string) {
	after := retryWait
	if message == "down" {
		after = retryDown
	}
	x.later(message, after)
}

// later answers 503 and tells when to ask again.
func (x *exchange) later(message string, after time.Duration) {
	x.w.Header().Set("Retry-After", strconv.Itoa(int(after/time.Second)))
	x.answer(http.StatusServiceUnavailable, message, after)
}

// page answers with one of the proxy's own messages.
func (x *exchange) page(status int, message string) { x.answer(status, message, 0) }

func (x *exchange) answer(status int, message string, refresh time.Duration) {
	h := x.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Add("Vary", "Accept")
	var out []byte
	if wantsHTML(x.r) {
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", pagePolicy)
		if x.challenge != nil {
			h.Set("Content-Security-Policy", proofPolicy)
		}
		// Repeating anything but a GET is for the visitor to decide.
		if x.r.Method != http.MethodGet {
			refresh = 0
		}
		out = x.html(status, message, refresh)
	} else {
		h.Set("Content-Type", "application/json")
		out = jsonError(status, message)
	}
	h.Set("Content-Length", strconv.Itoa(len(out)))
	x.w.WriteHeader(status)
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write(out) // the client is free to go away
	}
}

func jsonError(status int, message string) []byte {
	// A struct of plain strings: it cannot fail.
	out, _ := json.Marshal(struct {
		Error   string `json:"error"`
		Status  int    `json:"status"`
		Message string `json:"message"`
	}{message, status, pageTexts["en"][message+".text"]})
	return append(out, '\n')
}

func (x *exchange) html(status int, message string, refresh time.Duration) []byte {
	page := x.table.snapshot.Page
	d := pageData{
		SiteName: page.SiteName, Contact: page.Contact, Mail: isMail(page.Contact),
		Status: status, Refresh: int(refresh / time.Second),
		Style: template.CSS(pageStyle), //nolint:gosec // embedded, not input
		Until: inZone(x.until, page.TimeZone), Zone: zoneName(page.TimeZone), Challenge: x.challenge,
		Program: template.JS(proofProgram), //nolint:gosec // embedded, not input
	}
	for _, l := range languageOrder(page.Language) {
		texts := pageTexts[l]
		d.Sections = append(d.Sections, pageSection{
			Language: l, Title: texts[message+".title"], Text: texts[message+".text"], Contact: texts["contact"],
			Until: texts["until"], Script: texts["proof.script"],
		})
	}
	d.Language, d.Title = d.Sections[0].Language, d.Sections[0].Title
	var out bytes.Buffer
	if err := pageTemplate.Execute(&out, d); err != nil {
		x.s.logger.Error("cannot write a page", "error", err)
		return []byte(http.StatusText(status))
	}
	return out.Bytes()
}

// inZone is a time as the people of the site read it.
func inZone(t time.Time, zone string) time.Time {
	if t.IsZero() {
		return t
	}
	where, err := time.LoadLocation(zone)
	if err != nil {
		return t.UTC() // zoneName says so
	}
	return t.In(where)
}

func zoneName(zone string) string {
	if _, err := time.LoadLocation(zone); err != nil || zone == "" {
		return "UTC"
	}
	return zone
}

// languageOrder puts the site's own language first ("es", "es-419", "en_GB").
func languageOrder(own string) []string {
	own, _, _ = strings.Cut(strings.ToLower(own), "-")
	own, _, _ = strings.Cut(own, "_")
	order := make([]string, 0, len(languages))
	for _, l := range languages {
		if l == own {
			order = append(order, l)
		}
	}
	for _, l := range languages {
		if l != own {
			order = append(order, l)
		}
	}
	return order
}

func isMail(s string) bool {
	name, host, found := strings.Cut(s, "@")
	return found && name != "" && isHostName(strings.ToLower(host)) && !strings.ContainsAny(name, " ?&:/\"'<>")
}

// wantsHTML tells people in front of a browser from programs.
func wantsHTML(r *http.Request) bool {
	if r.Header.Get("X-Requested-With") != "" {
		return false
	}
	for _, v := range r.Header["Accept"] {
		if strings.Contains(strings.ToLower(v), "text/html") {
			return true
		}
	}
	return false
}
