package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarima/proxy/routes"
	"tarima/supervisor/control"
)

func (c *cli) certCommand() *cobra.Command {
	cmd := c.verb("cert", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error { return cmd.Help() })
	cmd.AddCommand(c.certListCommand(), c.certShowCommand(), c.certRenewCommand(), c.certCheckCommand(), c.certImportCommand(),
		c.certForgetCommand(), c.certExportCommand(), c.certAuthorityCommand())
	return cmd
}

// certVerb is like verb, with its texts under cert.NAME.
func (c *cli) certVerb(use string, args cobra.PositionalArgs, run func(*cobra.Command, []string) error) *cobra.Command {
	name, _, _ := strings.Cut(use, " ")
	return &cobra.Command{
		Use: use, Short: c.say("cert." + name + ".short"), Long: c.say("cert." + name + ".long"), Args: c.args(args), RunE: run,
		ValidArgsFunction: c.completeCertificates,
	}
}

func (c *cli) completeCertificates(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	states, err := c.paths().client().Certificates(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, s := range states {
		if !slices.Contains(args, s.Name) {
			names = append(names, s.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (c *cli) certListCommand() *cobra.Command {
	var asJSON bool
	cmd := c.certVerb("list", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		states, err := c.paths().client().Certificates(cmd.Context())
		switch {
		case err != nil:
			return err
		case asJSON:
			return writeJSON(c.out, states)
		case len(states) == 0:
			fmt.Fprintln(c.out, c.say("cert.none"))
			return nil
		}
		c.writeCertificates(states, time.Now())
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, c.say("flag.json"))
	return cmd
}

func (c *cli) writeCertificates(states []routes.CertificateState, now time.Time) {
	rows := [][]cell{{}}
	for _, head := range []string{"name", "certificate", "until", "from"} {
		rows[0] = append(rows[0], cell{c.say("head." + head), faint})
	}
	for _, s := range states {
		until := ""
		if s.Phase == routes.CertificateInPlace && !s.NotAfter.IsZero() {
			until = c.say("cert.days", values{"Date": s.NotAfter.Local().Format(time.DateOnly), "Count": daysLeft(s, now)})
		}
		rows = append(rows, []cell{{text: s.Name}, c.certPhase(s), {text: until}, {text: c.certNote(s, now)}})
	}
	writeTable(c.out, c.color(), rows)
}

func daysLeft(s routes.CertificateState, now time.Time) int {
	return int(math.Floor(s.NotAfter.Sub(now).Hours() / 24))
}

func (c *cli) certPhase(s routes.CertificateState) cell {
	color := ""
	switch {
	case s.Phase == routes.CertificateFailed:
		color = red
	case s.Warning != "" || s.Phase == routes.CertificateInPlace && s.LastError != "":
		color = yellow
	case s.Phase == routes.CertificateInPlace:
		color = green
	}
	return cell{c.say("cert.phase." + string(s.Phase)), color}
}

// certNote is who made a certificate, or why there is none, in a few words.
func (c *cli) certNote(s routes.CertificateState, now time.Time) string {
	note := s.Issuer
	switch {
	case s.Warning != "":
		return c.say("cert.endsSoon")
	case s.LastError != "":
		note = s.LastError
		if wait := s.NextAttempt.Sub(now); !s.NextAttempt.IsZero() && wait > 0 {
			note += " (" + c.say("status.next", values{"In": ageText(wait)}) + ")"
		}
	case s.Wildcard != "":
		note += " (" + s.Wildcard + ")"
	case s.Origin == routes.OriginImported || s.Origin == routes.OriginFile:
		note += " (" + c.say("cert.origin."+s.Origin) + ")"
	}
	return note
}

func (c *cli) certShowCommand() *cobra.Command {
	var asJSON bool
	cmd := c.certVerb("show NAME", cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
		states, err := c.paths().client().Certificates(cmd.Context())
		if err != nil {
			return err
		}
		i := slices.IndexFunc(states, func(s routes.CertificateState) bool { return s.Name == args[0] })
		if i < 0 {
			var names []string
			for _, s := range states {
				names = append(names, s.Name)
			}
			return errors.New(c.say("cert.unknown", values{"Name": args[0], "Names": strings.Join(names, ", ")}))
		}
		if asJSON {
			return writeJSON(c.out, states[i])
		}
		c.writeCertificate(states[i])
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, c.say("flag.json"))
	return cmd
}

func (c *cli) writeCertificate(s routes.CertificateState) {
	var rows [][]cell
	add := func(key, text string) {
		if text != "" {
			rows = append(rows, []cell{{c.say("cert.field." + key), faint}, {text: text}})
		}
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Local().Format("2006-01-02 15:04")
	}
	add("name", s.Name)
	phase := c.certPhase(s)
	rows = append(rows, []cell{{c.say("cert.field.state"), faint}, phase})
	if s.Origin != "" {
		add("origin", c.say("cert.origin."+s.Origin))
	}
	add("wildcard", s.Wildcard)
	add("issuer", s.Issuer)
	add("from", at(s.NotBefore))
	add("until", at(s.NotAfter))
	add("renewal", at(s.RenewAt))
	if !s.WindowStart.IsZero() {
		add("window", at(s.WindowStart)+" – "+at(s.WindowEnd))
	}
	add("challenge", s.Challenge)
	add("last", at(s.LastAttempt))
	if s.Attempts > 0 {
		add("failures", fmt.Sprint(s.Attempts))
	}
	if s.LastError != "" || s.Phase != routes.CertificateInPlace {
		add("next", at(s.NextAttempt))
	}
	add("error", s.LastError)
	add("warning", s.Warning)
	if b := s.Budget; b != nil {
		add("budget", c.say("cert.budget", values{
			"Same": b.Same, "SameLimit": b.SameLimit, "Week": b.Week, "WeekLimit": b.WeekLimit, "Domain": b.Domain,
			"Failed": b.Failed, "FailedLimit": b.FailedLimit,
		}))
	}
	writeTable(c.out, c.color(), rows)
}

func (c *cli) certRenewCommand() *cobra.Command {
	return c.certVerb("renew NAME", cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
		fmt.Fprintln(c.err, c.say("cert.renewing", values{"Name": args[0]}))
		s, err := c.paths().client().RenewCertificate(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		c.writeCertificates([]routes.CertificateState{s}, time.Now())
		return nil
	})
}

func (c *cli) certCheckCommand() *cobra.Command {
	var asJSON bool
	cmd := c.certVerb("check [NAME…]", cobra.ArbitraryArgs, func(cmd *cobra.Command, args []string) error {
		client := c.paths().client()
		if len(args) == 0 {
			states, err := client.Certificates(cmd.Context())
			if err != nil {
				return err
			}
			for _, s := range states {
				args = append(args, s.Name)
			}
		}
		all := []routes.CertificateFinding{}
		for _, name := range args {
			findings, err := client.CheckCertificate(cmd.Context(), name)
			if err != nil {
				return err
			}
			all = append(all, findings...)
		}
		if asJSON {
			if err := writeJSON(c.out, all); err != nil {
				return err
			}
		} else {
			c.writeFindings(all)
		}
		if slices.ContainsFunc(all, func(f routes.CertificateFinding) bool { return f.Level == routes.FindingError }) {
			return &exitError{code: exitFailed}
		}
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, c.say("flag.json"))
	return cmd
}

func (c *cli) writeFindings(findings []routes.CertificateFinding) {
	for _, f := range findings {
		mark, color := "✓", green
		switch f.Level {
		case routes.FindingWarning:
			mark, color = "!", yellow
		case routes.FindingError:
			mark, color = "✗", red
		}
		fmt.Fprintf(c.out, "%s %s: %s\n", paint(mark, color, c.color()), f.Name, c.findingText(f))
	}
}

// findingText says a finding in the person's language; one that this version
// does not know, in English.
func (c *cli) findingText(f routes.CertificateFinding) string {
	places := values{"Name": f.Name}
	for k, v := range f.Args {
		places[k] = v
	}
	key := "cert.find." + f.Code
	if text := c.say(key, places); text != key {
		return text
	}
	return f.Text
}

func (c *cli) certImportCommand() *cobra.Command {
	var cert, key string
	cmd := c.certVerb("import NAME", cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
		chain, err := c.readPEM(cert)
		if err != nil {
			return err
		}
		secret, err := c.readPEM(key)
		if err != nil {
			return err
		}
		s, err := c.paths().client().ImportCertificate(cmd.Context(), args[0], routes.CertificatePair{Chain: string(chain), Key: routes.Secret(secret)})
		if err != nil {
			return err
		}
		c.writeCertificates([]routes.CertificateState{s}, time.Now())
		return nil
	})
	cmd.Flags().StringVar(&cert, "cert", "", c.say("flag.cert"))
	cmd.Flags().StringVar(&key, "key", "", c.say("flag.key"))
	// The flags are there.
	_ = cmd.MarkFlagRequired("cert")
	_ = cmd.MarkFlagRequired("key")
	return cmd
}

func (c *cli) readPEM(name string) ([]byte, error) {
	f, err := c.openFile(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, maxCertificate+1))
	if err == nil && len(data) > maxCertificate {
		err = fmt.Errorf("%s: more than %d bytes", name, maxCertificate)
	}
	return data, err
}

func (c *cli) certForgetCommand() *cobra.Command {
	return c.certVerb("forget NAME", cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
		if err := c.paths().client().ForgetCertificate(cmd.Context(), args[0]); err != nil {
			return err
		}
		fmt.Fprintln(c.err, c.say("cert.forgotten", values{"Name": args[0]}))
		return nil
	})
}

func (c *cli) certExportCommand() *cobra.Command {
	var keyFile string
	cmd := c.certVerb("export NAME", cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
		return c.exportCertificate(cmd.Context(), c.paths().client(), args[0], keyFile)
	})
	cmd.Flags().StringVar(&keyFile, "key-file", "", c.say("flag.keyFile"))
	return cmd
}

// exportCertificate writes the chain to the output, and the key, when a file
// for it was named, to that alone: it must not be in a terminal's memory.
func (c *cli) exportCertificate(ctx context.Context, client *control.Client, name, keyFile string) error {
	pair, err := client.ExportCertificate(ctx, name)
	if err != nil {
		return err
	}
	if keyFile != "" {
		f, err := os.OpenFile(keyFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.WriteString(f, string(pair.Key))
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	_, err = io.WriteString(c.out, pair.Chain)
	return err
}
