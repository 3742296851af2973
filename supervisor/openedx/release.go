package openedx

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/pelletier/go-toml/v2"

	"tarima/supervisor/site"
)

//go:embed releases/*.toml
var releaseFiles embed.FS

// Release is a named set of images with the settings that differ between
// releases.
type Release struct {
	Name    string `toml:"name"`
	Title   string `toml:"title"`
	Version string `toml:"version"`
	// Images by name, see site.ImageNames.
	Images  map[string]string `toml:"images"`
	MySQL   StoreFlags        `toml:"mysql"`
	MongoDB StoreFlags        `toml:"mongodb"`
	OpenEdX Platform          `toml:"openedx"`
}

// StoreFlags are command-line flags of a data store's server that only some
// versions or brands of it know.
type StoreFlags struct {
	Flags []string `toml:"flags"`
}

// Platform is what differs in the platform itself.
type Platform struct {
	Theme          string   `toml:"theme"`         // folder of the theme in the image; "": none
	LoadPolicies   bool     `toml:"load_policies"` // the release has openedx-authz
	MicroFrontends []string `toml:"micro_frontends"`
}

// Releases lists the names of the built-in releases.
func Releases() []string {
	var names []string
	entries, err := fs.ReadDir(releaseFiles, "releases")
	if err != nil { // the folder is part of the binary
		panic(err)
	}
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".toml"))
	}
	slices.Sort(names)
	return names
}

// LoadRelease returns a built-in release. The error wraps ErrRelease.
func LoadRelease(name string) (Release, error) {
	data, err := releaseFiles.ReadFile("releases/" + name + ".toml")
	if err != nil {
		return Release{}, fmt.Errorf("%w: %q; there are %s", ErrRelease, name, strings.Join(Releases(), ", "))
	}
	return ParseRelease(data)
}

// ParseRelease reads a release file. The error wraps ErrRelease.
func ParseRelease(data []byte) (Release, error) {
	var r Release
	d := toml.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Release{}, fmt.Errorf("%w: %w", ErrRelease, err)
	}
	if r.Name == "" || r.Version == "" {
		return Release{}, fmt.Errorf("%w: name and version are required", ErrRelease)
	}
	for _, name := range site.ImageNames() {
		if _, err := reference.ParseNormalizedNamed(r.Images[name]); err != nil {
			return Release{}, fmt.Errorf("%w: image %s: %q: %w", ErrRelease, name, r.Images[name], err)
		}
	}
	for name := range r.Images {
		if !slices.Contains(site.ImageNames(), name) {
			return Release{}, fmt.Errorf("%w: no image is named %q; there are %s",
				ErrRelease, name, strings.Join(site.ImageNames(), ", "))
		}
	}
	for _, app := range r.OpenEdX.MicroFrontends {
		if !simpleName.MatchString(app) {
			return Release{}, fmt.Errorf("%w: %q is not the name of a micro-frontend", ErrRelease, app)
		}
	}
	if t := r.OpenEdX.Theme; t != "" && !simpleName.MatchString(t) {
		return Release{}, fmt.Errorf("%w: %q is not the name of a theme", ErrRelease, t)
	}
	return r, nil
}

// images returns the release's images with the site file's choices laid over.
func (r Release) images(use map[string]string) map[string]string {
	images := make(map[string]string, len(r.Images))
	for name, ref := range r.Images {
		images[name] = ref
	}
	for name, ref := range use {
		images[name] = ref
	}
	return images
}
