package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// runcOptions is the type of the message that a containerd before 2.3 writes
// to a shim where a newer one writes its boot parameters.
const runcOptions = "containerd.runc.v1.Options"

// speakOldProtocol lets a containerd before 2.3 start this shim: such a daemon
// writes the runtime's options where a newer one writes boot parameters, and
// expects JSON for an answer where a newer one expects a protocol buffer. The
// returned function must be called when the shim has answered.
func speakOldProtocol() (answered func() error, err error) {
	nothing := func() error { return nil }
	if os.Args[len(os.Args)-1] != "start" {
		return nothing, nil
	}
	input, err := io.ReadAll(io.LimitReader(os.Stdin, 10<<20))
	if err != nil {
		return nil, fmt.Errorf("reading what the daemon asks for: %w", err)
	}
	if len(input) == 0 {
		// A daemon that was killed just now. With the built-in defaults a shim
		// would run for ever on a socket that no daemon of ours looks at.
		return nil, errors.New("the daemon ended before it said what is wanted")
	}
	var options anypb.Any
	old := proto.Unmarshal(input, &options) == nil && options.TypeUrl == runcOptions
	if old {
		input, err = proto.Marshal(&bootapi.BootstrapParams{
			InstanceID:             argument("-id"),
			Namespace:              argument("-namespace"),
			ContainerdGrpcAddress:  argument("-address"),
			ContainerdTtrpcAddress: os.Getenv("TTRPC_ADDRESS"),
			ContainerdBinary:       argument("-publish-binary"),
			Extensions:             []*bootapi.Extension{{Value: &options}},
		})
		if err != nil {
			return nil, err
		}
	}
	if os.Stdin, err = memoryFile(input); err != nil || !old {
		return nothing, err
	}
	stdout := os.Stdout
	if os.Stdout, err = memoryFile(nil); err != nil {
		return nil, err
	}
	return func() error { return answerInJSON(os.Stdout, stdout) }, nil
}

func answerInJSON(from io.ReadSeeker, to io.Writer) error {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	text, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal(text, &result); err != nil {
		return fmt.Errorf("reading the shim's own answer: %w", err)
	}
	return json.NewEncoder(to).Encode(map[string]any{
		"version": result.Version, "address": result.Address, "protocol": result.Protocol,
	})
}

// argument returns the value of a flag that containerd gives.
func argument(name string) string {
	for i, arg := range os.Args[:len(os.Args)-1] {
		if arg == name {
			return os.Args[i+1]
		}
	}
	return ""
}

// memoryFile is a file that exists in memory alone, read from its beginning.
func memoryFile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(shimName, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	file := os.NewFile(uintptr(fd), shimName)
	if _, err := file.Write(content); err != nil {
		return nil, err
	}
	_, err = file.Seek(0, io.SeekStart)
	return file, err
}
