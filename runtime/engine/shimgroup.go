package engine

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/shim"
	"golang.org/x/sys/unix"
)

// groupPatience is how long the shim of a group may take to accept a
// connection. The kernel accepts in its place: only a machine that is out of
// breath takes any time, and a full queue says "try again". A shim that is dead
// refuses at once.
const (
	groupPatience = 10 * time.Second
	groupPause    = 20 * time.Millisecond
)

// Start starts a shim, or names the one that the container's group has.
//
// The original waits for a tenth of a second, then takes the group's shim for
// dead and puts another one on its socket. The containers of the first go on,
// but the next daemon asks the second for them and ends what it does not know.
func (m shimManager) Start(ctx context.Context, params *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	if address := groupShim(ctx, params.GetSocketDir(), params.GetContainerdGrpcAddress()); address != "" {
		return &bootapi.BootstrapResult{Version: 3, Protocol: "ttrpc", Address: address}, nil
	}
	return m.Shim.Start(ctx, params)
}

// groupShim is the address of a living shim of the group of the container
// whose bundle is the working directory, "" when there is none.
func groupShim(ctx context.Context, socketDir, containerd string) string {
	annotations, err := readAnnotations("config.json")
	if err != nil || annotations[annotationGroup] == "" || socketDir == "" {
		return ""
	}
	address, err := shim.CreateSocketAddress(ctx, socketDir, containerd, annotations[annotationGroup], false)
	if err != nil {
		return ""
	}
	for deadline := time.Now().Add(groupPatience); ; {
		conn, err := net.DialTimeout("unix", strings.TrimPrefix(address, "unix://"), groupPatience)
		if err == nil {
			_ = conn.Close() // it was only to see
			return address
		}
		if !errors.Is(err, unix.EAGAIN) || time.Now().After(deadline) {
			return ""
		}
		<-time.After(groupPause)
	}
}
