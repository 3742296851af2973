package engine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
)

// connectTimeout is how long an external containerd may take to answer.
const connectTimeout = 10 * time.Second

// connectExternal connects to a containerd that is not ours.
func connectExternal(ctx context.Context, socket string) (*containerd.Client, error) {
	client, err := containerd.New(socket, containerd.WithDefaultNamespace(namespace), containerd.WithTimeout(connectTimeout))
	if err != nil {
		return nil, fmt.Errorf("connecting to containerd at %s: %w", socket, err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	version, err := client.Version(ctx)
	if err == nil {
		err = acceptVersion(version.Version)
	} else {
		err = fmt.Errorf("no answer: %w", err)
	}
	if err != nil {
		_ = client.Close() // the first error says more
		return nil, fmt.Errorf("containerd at %s: %w", socket, err)
	}
	return client, nil
}

// acceptVersion refuses a containerd before 2.1: it has no mount manager and
// unpacks in another way.
func acceptVersion(version string) error {
	text := strings.TrimPrefix(version, "v")
	first, rest, _ := strings.Cut(text, ".")
	second, _, _ := strings.Cut(rest, ".")
	major, err1 := strconv.Atoi(first)
	minor, err2 := strconv.Atoi(second)
	if err1 != nil || err2 != nil {
		return fmt.Errorf("%w: it calls itself %q; 2.1 or newer is needed", ErrOldContainerd, version)
	}
	if major < 2 || (major == 2 && minor < 1) {
		return fmt.Errorf("%w: it is version %s; 2.1 or newer is needed, or none at all: Tarima brings its own", ErrOldContainerd, text)
	}
	return nil
}
