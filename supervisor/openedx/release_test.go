package openedx

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestReleases(t *testing.T) {
	for _, name := range Releases() {
		r, err := LoadRelease(name)
		if err != nil {
			t.Fatal(err)
		}
		if r.Name != name || len(r.OpenEdX.MicroFrontends) == 0 {
			t.Errorf("%s: %+v", name, r)
		}
		for image, ref := range r.Images {
			if strings.Contains(ref, "@") {
				t.Errorf("%s: image %s has a digest; digests are found at the first pull", name, image)
			}
		}
	}
}

func TestParseReleaseRefuses(t *testing.T) {
	good, err := os.ReadFile("releases/campus.toml")
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"nothing":                "",
		"not TOML":               "name = ",
		"an unknown key":         "colour = 1\n" + string(good),
		"an image too few":       strings.Replace(string(good), "mysql = ", "# ", 1),
		"an unknown image":       strings.Replace(string(good), "smtp = ", "pop3 = \"x/y:1\"\nsmtp = ", 1),
		"a wrong image":          strings.Replace(string(good), "registry.test/smtp:1", "SMTP:1:2", 1),
		"a theme outside":        strings.Replace(string(good), `"indigo"`, `"../x"`, 1),
		"a wrong front-end":      strings.Replace(string(good), `"authn"`, `"authn { respond 200 }"`, 1),
		"a release without name": strings.Replace(string(good), `name = "campus"`, "", 1),
	} {
		if bad == string(good) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := ParseRelease([]byte(bad)); !errors.Is(err, ErrRelease) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzParseRelease(f *testing.F) {
	for _, name := range Releases() {
		data, err := releaseFiles.ReadFile("releases/" + name + ".toml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRelease(data)
		if err != nil {
			if !errors.Is(err, ErrRelease) {
				t.Fatal(err)
			}
			return
		}
		in := testInput(t, nil)
		in.Release = &r
		checkPlan(t, mustBuild(t, in), in)
	})
}
