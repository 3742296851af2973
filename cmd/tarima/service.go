package main

import (
	"log/slog"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/journal"
)

// logger writes for the journal under systemd, as lines of JSON that
// journalctl -o cat | jq can take apart, and as text for people elsewhere.
func (c *cli) logger() *slog.Logger {
	if ok, err := journal.StderrIsJournalStream(); err == nil && ok {
		return slog.New(slog.NewJSONHandler(c.err, nil))
	}
	return slog.New(slog.NewTextHandler(c.err, nil))
}

// notifier speaks to the service manager (sd_notify(3)). The address is taken
// out of the environment at once: containers and shims must not inherit it.
func notifier() func(state string) {
	address := os.Getenv("NOTIFY_SOCKET")
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			slog.Warn("environment keeps a variable of systemd's", "name", name, "error", err)
		}
	}
	return notifyAt(address)
}

// notifyAt speaks to the service manager at an address; "" is nobody.
func notifyAt(address string) func(state string) {
	if address == "" {
		return func(string) {}
	}
	return func(state string) {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
		if err != nil {
			slog.Warn("systemd's notify socket", "error", err)
			return
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(state)); err != nil {
			slog.Warn("systemd's notify socket", "error", err)
		}
	}
}
