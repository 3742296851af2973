package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"

	"tarima/store/durable"
)

const (
	forward4 = "net/ipv4/ip_forward"
	forward6 = "net/ipv6/conf/all/forwarding"
)

// changedSettings are the host's settings that Tarima changed, each with the
// value that it had before. They are written down before the change.
type changedSettings struct {
	// Order of change; it is undone from the end.
	Settings []changedSetting `json:"settings"`
}

type changedSetting struct {
	Key    string `json:"key"`
	Before string `json:"before"`
	After  string `json:"after"`
}

func (n *Network) changedPath() string { return filepath.Join(n.dir, "host-settings.json") }

func (n *Network) readChanged() (changedSettings, error) {
	var c changedSettings
	b, err := os.ReadFile(n.changedPath())
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read the host's changed settings: %w", err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		// It only serves to undo; a broken one must not stop a site.
		n.log.Warn("the record of the host's changed settings is damaged; they will not be set back", "file", n.changedPath(), "error", err)
		return changedSettings{}, nil
	}
	return c, nil
}

// change sets one of the host's settings and remembers what it was.
func (n *Network) change(s sysctl) error {
	have, err := readSysctl(s.key)
	if err != nil {
		return err
	}
	if have == s.value {
		return nil
	}
	c, err := n.readChanged()
	if err != nil {
		return err
	}
	known := false
	for _, o := range c.Settings {
		known = known || o.Key == s.key
	}
	if !known {
		c.Settings = append(c.Settings, changedSetting{s.key, have, s.value})
		b, err := json.Marshal(c)
		if err != nil {
			return fmt.Errorf("record the host's settings: %w", err)
		}
		if err := durable.Write(n.changedPath(), b, 0o600); err != nil {
			return fmt.Errorf("record the host's settings: %w", err)
		}
		n.step("setting recorded")
	}
	if err := writeSysctl(s); err != nil {
		return err
	}
	n.log.Info("changed a setting of the host", "key", s.key, "from", have, "to", s.value)
	n.step("setting changed")
	return nil
}

// applyForwarding makes the host a router when, and only when, some member may
// reach the outside.
func (n *Network) applyForwarding(p *policy) error {
	v4, v6 := p.egressFamilies()
	if !v4 && !v6 {
		return nil
	}
	return n.host.do(func(h *netlink.Handle) error {
		if v4 {
			if err := n.change(sysctl{forward4, "1"}); err != nil {
				return err
			}
		}
		if !v6 {
			return nil
		}
		if on, err := readSysctl(forward6); err == nil && on != "1" {
			// A router does not listen to other routers: the host would lose
			// its own default route. With 2 it goes on listening
			// (Documentation/networking/ip-sysctl.rst, accept_ra).
			links, err := listLinks(h)
			if err != nil {
				return fmt.Errorf("list the host's interfaces: %w", err)
			}
			for _, l := range links {
				if l.Attrs().Flags&net.FlagLoopback != 0 {
					continue
				}
				key := "net/ipv6/conf/" + l.Attrs().Name + "/accept_ra"
				if v, err := readSysctl(key); err != nil || v != "1" {
					continue
				}
				if err := n.change(sysctl{key, "2"}); err != nil {
					return err
				}
			}
		}
		return n.change(sysctl{forward6, "1"})
	})
}

// restoreForwarding sets the host's settings back when no site is left. It
// leaves them when the host has interfaces that other programs route for
// (bridges, tunnels, pairs): they may have come to rely on them.
func (n *Network) restoreForwarding() error {
	sites, err := n.Sites()
	if err != nil || len(sites) > 0 {
		return err
	}
	c, err := n.readChanged()
	if err != nil || len(c.Settings) == 0 {
		return err
	}
	return n.host.do(func(h *netlink.Handle) error {
		other, err := otherRouted(h)
		if err != nil {
			return err
		}
		if other != "" {
			n.log.Info("the host's forwarding stays on, something else may use it", "interface", other)
			return n.forgetChanged()
		}
		for i := len(c.Settings) - 1; i >= 0; i-- {
			s := c.Settings[i]
			if have, err := readSysctl(s.Key); err != nil || have != s.After {
				continue // gone, or somebody else's by now
			}
			if err := writeSysctl(sysctl{s.Key, s.Before}); err != nil {
				return err
			}
			n.log.Info("set back a setting of the host", "key", s.Key, "to", s.Before)
			n.step("setting restored")
		}
		return n.forgetChanged()
	})
}

// otherRouted names an interface that another program on the host may forward
// packets for: one that is up, made by software and not itself the way out.
func otherRouted(h *netlink.Handle) (string, error) {
	links, err := listLinks(h)
	if err != nil {
		return "", fmt.Errorf("list the host's interfaces: %w", err)
	}
	ways, err := waysOut(h)
	if err != nil {
		return "", err
	}
	for _, l := range links {
		a := l.Attrs()
		isWay := slices.ContainsFunc(ways, func(w netlink.Link) bool { return w.Attrs().Index == a.Index })
		if a.Flags&net.FlagUp == 0 || a.Flags&net.FlagLoopback != 0 || isWay {
			continue
		}
		switch l.Type() {
		case "device", "ifb", "dummy":
		default:
			return a.Name, nil
		}
	}
	return "", nil
}

func (n *Network) forgetChanged() error {
	if err := os.Remove(n.changedPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget the host's changed settings: %w", err)
	}
	return nil
}
