package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"tarima/store/durable"
)

// trustStore is where a family of systems keeps authorities that its
// administrator added, and the command that makes them known.
type trustStore struct {
	dir     string
	command []string
}

var trustStores = []trustStore{
	{"/usr/local/share/ca-certificates", []string{"update-ca-certificates"}}, // Debian, Ubuntu
	{"/etc/pki/ca-trust/source/anchors", []string{"update-ca-trust"}},        // Fedora, RHEL and their kin
	{"/etc/pki/trust/anchors", []string{"update-ca-certificates"}},           // SUSE
}

const trustedName = "tarima-local-authority.crt"

func (c *cli) certAuthorityCommand() *cobra.Command {
	var install bool
	cmd := c.certVerb("authority", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		file := filepath.Join(c.paths().ProxyState, "ca", "ca.pem")
		root, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			return errors.New(c.say("cert.noAuthority", values{"File": file}))
		}
		if err != nil {
			return err
		}
		if !install {
			_, err = c.out.Write(root)
			return err
		}
		where, err := installRoot(cmd.Context(), "", root)
		if err != nil {
			return err
		}
		fmt.Fprintln(c.err, c.say("cert.installed", values{"File": where}))
		return nil
	})
	cmd.Flags().BoolVar(&install, "install", false, c.say("flag.install"))
	return cmd
}

// installRoot makes a root known to this system's programs, below another
// root folder in tests.
func installRoot(ctx context.Context, below string, root []byte) (string, error) {
	for _, s := range trustStores {
		dir := filepath.Join(below, s.dir)
		program, err := exec.LookPath(s.command[0])
		if err != nil {
			continue
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			continue
		}
		file := filepath.Join(dir, trustedName)
		if err := durable.Write(file, root, 0o644); err != nil {
			return "", err
		}
		if out, err := exec.CommandContext(ctx, program, s.command[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", program, err, out)
		}
		return file, nil
	}
	return "", errors.New("this system's trust store is not known here: there is neither update-ca-certificates nor update-ca-trust with its folder")
}
