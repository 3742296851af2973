package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// annotations that name an image in a layout's index, in order of preference.
const (
	annotationFullName = "io.containerd.image.name"
	annotationRefName  = "org.opencontainers.image.ref.name"
)

// layoutFile marks a folder as an OCI image layout, as the image
// specification asks (image-layout.md).
const layoutFile = "oci-layout"

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// descriptor is the part of an OCI descriptor that serving needs.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
}

// layouts returns the folders below root that are OCI layouts: root itself, or
// those of its direct sub-folders that carry the marker.
func layouts(root string) ([]string, error) {
	if _, err := os.Stat(filepath.Join(root, layoutFile)); err == nil {
		return []string{root}, nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list image folder: %w", err)
	}
	var found []string
	for _, entry := range entries {
		dir := filepath.Join(root, entry.Name())
		if _, err := os.Stat(filepath.Join(dir, layoutFile)); err == nil {
			found = append(found, dir)
		}
	}
	return found, nil
}

// names maps repository path and tag to the manifest or index that the layouts
// give it. The later of two that claim one name is an error: which of them a
// test got would depend on the order of folders.
func names(dirs []string) (map[string]map[string]descriptor, error) {
	all := map[string]map[string]descriptor{}
	for _, root := range dirs {
		found, err := layouts(root)
		if err != nil {
			return nil, err
		}
		for _, dir := range found {
			if err := addNames(all, dir); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

func addNames(all map[string]map[string]descriptor, dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return fmt.Errorf("read layout index: %w", err)
	}
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return fmt.Errorf("read layout index of %s: %w", dir, err)
	}
	for _, m := range index.Manifests {
		name := m.Annotations[annotationFullName]
		if name == "" {
			name = m.Annotations[annotationRefName]
		}
		if name == "" {
			continue // reachable by digest alone
		}
		repository, tag, err := splitName(name, filepath.Base(dir))
		if err != nil {
			return fmt.Errorf("layout %s: %w", dir, err)
		}
		if all[repository] == nil {
			all[repository] = map[string]descriptor{}
		}
		if other, taken := all[repository][tag]; taken && other.Digest != m.Digest {
			return fmt.Errorf("layout %s: %s:%s is already %s, found again as %s", dir, repository, tag, other.Digest, m.Digest)
		}
		all[repository][tag] = m
	}
	return nil
}

// splitName turns an annotation into repository path and tag. Without a slash
// or colon it is a tag of the repository that is named after the folder.
func splitName(name, folder string) (repository, tag string, err error) {
	if !strings.ContainsAny(name, "/:") {
		return folder, name, nil
	}
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", "", fmt.Errorf("image name %q: %w", name, err)
	}
	tagged, ok := named.(reference.Tagged)
	if !ok {
		return "", "", fmt.Errorf("image name %q has no tag", name)
	}
	return reference.Path(named), tagged.Tag(), nil
}

// blob opens a blob of any layout. It returns fs.ErrNotExist when no layout
// holds it or the digest is not a digest.
func blob(dirs []string, digest string) (*os.File, error) {
	if !digestPattern.MatchString(digest) {
		return nil, fs.ErrNotExist
	}
	for _, root := range dirs {
		found, err := layouts(root)
		if err != nil {
			return nil, err
		}
		for _, dir := range found {
			file, err := os.Open(filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:")))
			if err == nil {
				return file, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("open blob: %w", err)
			}
		}
	}
	return nil, fs.ErrNotExist
}

// mediaType reads the type of a manifest or index from its own content, for
// requests by digest, which come with no descriptor. The image specification
// lets a manifest leave the field out; the two kinds then differ in their list.
func mediaType(raw []byte) string {
	var probe struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &probe); err != nil {
		return "application/octet-stream"
	}
	switch {
	case probe.MediaType != "":
		return probe.MediaType
	case probe.Manifests != nil:
		return string(types.OCIImageIndex)
	default:
		return string(types.OCIManifestSchema1)
	}
}

// sortedTags returns the tags of one repository in order.
func sortedTags(tags map[string]descriptor) []string {
	list := make([]string, 0, len(tags))
	for tag := range tags {
		list = append(list, tag)
	}
	sort.Strings(list)
	return list
}
