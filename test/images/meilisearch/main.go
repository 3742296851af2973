// Command meilisearch is a small search service that answers Meilisearch's API
// as far as Open edX uses it: health, keys, indexes, settings, documents,
// search, tasks. It reads the same settings and keeps its data in the same
// place, so that the supervisor can be tested against it without the published
// image.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// version is the release whose API is spoken.
const version = "1.8.4"

// settings of the service. Each comes from its flag, else its environment
// variable, else the configuration file, else its default.
type settings struct {
	masterKey, addr, dir, env, level string
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	set, err := readSettings(args, os.Getenv)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	s, err := open(set.dir, set.masterKey)
	if err != nil {
		return err
	}
	if set.masterKey == "" {
		log.Warn("no master key was found: every request is allowed")
	}
	listener, err := net.Listen("tcp", set.addr)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", set.addr, err)
	}
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	log.Info("starting", "version", version, "address", listener.Addr().String(), "database", set.dir, "environment", set.env)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	log.Info("stopping")
	patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// readSettings collects the settings from their four sources.
func readSettings(args []string, getenv func(string) string) (settings, error) {
	known := []struct {
		name, value, help string
		switchOnly        bool
	}{
		{name: "master-key", help: "authorise requests"},
		{name: "http-addr", value: "localhost:7700", help: "address to listen on"},
		{name: "db-path", value: "./data.ms", help: "folder of the database"},
		{name: "env", value: "development", help: "production or development"},
		{name: "log-level", value: "INFO", help: "OFF, ERROR, WARN, INFO, DEBUG or TRACE"},
		{name: "max-indexing-memory", help: "accepted, without meaning here"},
		{name: "max-indexing-threads", help: "accepted, without meaning here"},
		{name: "http-payload-size-limit", help: "accepted, without meaning here"},
		{name: "dump-dir", help: "accepted, without meaning here"},
		{name: "snapshot-dir", help: "accepted, without meaning here"},
		{name: "no-analytics", switchOnly: true, help: "accepted: nothing is ever sent"},
	}
	flags := flag.NewFlagSet("meilisearch", flag.ContinueOnError)
	file := flags.String("config-file-path", "", "configuration file (TOML)")
	given := map[string]*string{}
	for _, k := range known {
		if k.switchOnly {
			flags.Bool(k.name, false, k.help)
			continue
		}
		given[k.name] = flags.String(k.name, "", k.help)
	}
	if err := flags.Parse(args); err != nil {
		return settings{}, err
	}
	if flags.NArg() > 0 {
		return settings{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}

	asked := *file
	if asked == "" {
		asked = getenv("MEILI_CONFIG_FILE_PATH")
	}
	path := asked
	if path == "" {
		path = "./config.toml"
	}
	fromFile := map[string]any{}
	raw, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := toml.Unmarshal(raw, &fromFile); err != nil {
			return settings{}, fmt.Errorf("configuration file %s: %w", path, err)
		}
	case asked != "" || !errors.Is(err, fs.ErrNotExist):
		return settings{}, fmt.Errorf("configuration file: %w", err)
	}
	for name := range fromFile {
		ok := false
		for _, k := range known {
			ok = ok || name == strings.ReplaceAll(k.name, "-", "_")
		}
		if !ok {
			return settings{}, fmt.Errorf("configuration file %s: unknown key %q", path, name)
		}
	}

	value := map[string]string{}
	for _, k := range known {
		name := strings.ReplaceAll(k.name, "-", "_")
		value[k.name] = k.value
		if v, ok := fromFile[name]; ok {
			value[k.name] = fmt.Sprint(v)
		}
		if v := getenv("MEILI_" + strings.ToUpper(name)); v != "" {
			value[k.name] = v
		}
		if v := given[k.name]; v != nil && *v != "" {
			value[k.name] = *v
		}
	}
	set := settings{value["master-key"], value["http-addr"], value["db-path"], value["env"], value["log-level"]}
	switch set.env {
	case "development":
	case "production":
		if len(set.masterKey) < 16 {
			return settings{}, errors.New("in production mode, the master key must be of at least 16 bytes")
		}
	default:
		return settings{}, fmt.Errorf("invalid value %q for env: production and development are possible", set.env)
	}
	return set, nil
}
