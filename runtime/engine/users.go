package engine

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"tarima/runtime/container"
)

// user finds the ids of "name", "uid", "name:group" or "uid:gid". The image's
// files are asked for what is not a number; view mounts them for a moment.
func (e *Engine) user(ctx context.Context, spec *container.Spec, text string, view func() ([]mount.Mount, error)) (specs.User, error) {
	name, group, hasGroup := strings.Cut(text, ":")
	if name == "" {
		name = "0"
	}
	uid, uidErr := parseID(name)
	gid, gidErr := parseID(group)
	if uidErr == nil && hasGroup && gidErr == nil {
		return specs.User{UID: uid, GID: gid, AdditionalGids: []uint32{gid}}, nil
	}
	if uidErr == nil && uid == 0 && !hasGroup {
		return specs.User{AdditionalGids: []uint32{0}}, nil
	}
	mounts, err := view()
	if err != nil {
		return specs.User{}, err
	}
	var found specs.User
	err = mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		found, err = lookUpUser(root, name, group)
		return err
	})
	if err != nil {
		return specs.User{}, fmt.Errorf("%w: %s: user %q: %w", ErrSpec, spec.ID(), text, err)
	}
	return found, nil
}

func parseID(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, err
	}
	if n >= userRange {
		return 0, fmt.Errorf("%d is not below %d", n, userRange)
	}
	return uint32(n), nil
}

// lookUpUser reads passwd(5) and group(5) of a root folder.
func lookUpUser(root, name, group string) (specs.User, error) {
	passwd, err := colonFile(root, "etc/passwd")
	if err != nil {
		return specs.User{}, err
	}
	groups, err := colonFile(root, "etc/group")
	if err != nil {
		return specs.User{}, err
	}
	var user specs.User
	known := false
	for _, fields := range passwd {
		if len(fields) < 4 || (fields[0] != name && fields[2] != name) {
			continue
		}
		uid, uidErr := parseID(fields[2])
		gid, gidErr := parseID(fields[3])
		if uidErr != nil || gidErr != nil {
			return user, fmt.Errorf("its line in the image's /etc/passwd is broken")
		}
		user.UID, user.GID, known = uid, gid, true
		name = fields[0]
		break
	}
	if !known {
		uid, err := parseID(name)
		if err != nil {
			return user, fmt.Errorf("the image has no user %q", name)
		}
		user.UID = uid
	}
	if group != "" {
		gid, err := parseID(group)
		found := err == nil
		for _, fields := range groups {
			if len(fields) >= 3 && fields[0] == group {
				gid, err = parseID(fields[2])
				found = err == nil
				break
			}
		}
		if !found {
			return user, fmt.Errorf("the image has no group %q", group)
		}
		user.GID = gid
		user.AdditionalGids = []uint32{gid}
		return user, nil
	}
	user.AdditionalGids = []uint32{user.GID}
	for _, fields := range groups {
		if len(fields) < 4 || !slices.Contains(strings.Split(fields[3], ","), name) {
			continue
		}
		if gid, err := parseID(fields[2]); err == nil && !slices.Contains(user.AdditionalGids, gid) {
			user.AdditionalGids = append(user.AdditionalGids, gid)
		}
	}
	return user, nil
}

// colonFile reads a file of lines of fields. A missing file has none. The path
// is opened inside root: a link in an image must not lead to the host's file.
func colonFile(root, name string) ([][]string, error) {
	inside, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	file, err := inside.Open(filepath.FromSlash(name))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var lines [][]string
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		if line := strings.TrimSpace(scanner.Text()); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.Split(line, ":"))
		}
	}
	return lines, scanner.Err()
}
