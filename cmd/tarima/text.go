package main

import (
	"embed"
	"fmt"
	"os"
	"strings"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"github.com/pelletier/go-toml/v2"
	"golang.org/x/text/language"
)

//go:embed messages/*.toml
var messageFiles embed.FS

// languages that the messages come in; the first is the one to fall back to.
var languages = []string{"en", "es"}

// values fill the places of a message.
type values map[string]any

// text speaks one language. JSON, log fields, flags and error codes are never
// translated.
type text struct{ localizer *i18n.Localizer }

// newText picks the language: --lang of args, then LC_ALL, LC_MESSAGES and
// LANG, then English.
func newText(args []string, getenv func(string) string) (text, error) {
	bundle := i18n.NewBundle(language.English)
	bundle.RegisterUnmarshalFunc("toml", toml.Unmarshal)
	for _, l := range languages {
		if _, err := bundle.LoadMessageFileFS(messageFiles, "messages/"+l+".toml"); err != nil {
			return text{}, fmt.Errorf("messages in %s: %w", l, err)
		}
	}
	return text{i18n.NewLocalizer(bundle, wantedLanguage(args, getenv))}, nil
}

func wantedLanguage(args []string, getenv func(string) string) string {
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if value, ok := strings.CutPrefix(arg, "--lang="); ok {
			return value
		}
		if arg == "--lang" && i+1 < len(args) {
			return args[i+1]
		}
	}
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		// es_MX.UTF-8@euro is the tag es-MX; C and POSIX are English.
		locale, _, _ := strings.Cut(getenv(name), ".")
		locale, _, _ = strings.Cut(locale, "@")
		if locale != "" {
			return strings.ReplaceAll(locale, "_", "-")
		}
	}
	return languages[0]
}

// say returns a message with its places filled.
func (t text) say(key string, v ...values) string {
	config := &i18n.LocalizeConfig{MessageID: key}
	if len(v) > 0 {
		config.TemplateData = v[0]
		if count, ok := v[0]["Count"]; ok {
			config.PluralCount = count
		}
	}
	s, err := t.localizer.Localize(config)
	if err != nil && s == "" {
		return key // TestMessages fails for a key that is missing
	}
	return s
}

// environment is os.Getenv, named for the tests that give another.
func environment(name string) string { return os.Getenv(name) }
