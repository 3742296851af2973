package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"tarima/supervisor"
	"tarima/supervisor/control"
	"tarima/supervisor/site"
)

// reachTime is how long an application has to take a connection.
const reachTime = 2 * time.Second

// examineDoor looks at what the site file says of the public door and only the
// running machine can tell: whether applications answer, what is closed.
func examineDoor(ctx context.Context, config site.Config, closed *supervisor.MaintenanceStatus, now time.Time) []control.Finding {
	findings := examineApps(ctx, config.Proxy.Apps)
	if closed != nil {
		text := "closed to visitors for maintenance: " + strings.Join(closed.Hosts, ", ")
		level := levelInfo
		if !closed.Until.IsZero() && now.After(closed.Until) {
			level, text = levelWarning, text+", although they were told until "+closed.Until.Local().Format("2006-01-02 15:04")
		}
		findings = append(findings, finding("SITE-CLOSED", level, text, "tarima maintenance off"))
	}
	if config.Proxy.Proof {
		findings = append(findings, finding("SITE-PROOF", levelInfo,
			"browsers have to work before they come in, and programs and search engines stay out", "proxy.proof = false when the attack is over"))
	}
	return findings
}

// examineApps asks every address of an application for a connection, all at
// once.
func examineApps(ctx context.Context, apps map[string]site.App) []control.Finding {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	var findings []control.Finding
	for _, name := range slices.Sorted(maps.Keys(apps)) {
		for _, address := range apps[name].Address {
			asking.Go(func() {
				var d net.Dialer
				conn, err := d.DialContext(ctx, "tcp", address)
				f := finding("APP-"+name, levelOK, fmt.Sprintf("proxy.apps.%s: %s takes connections", name, address), "")
				if err != nil {
					f = finding("APP-"+name, levelWarning, fmt.Sprintf("proxy.apps.%s: nobody answers at %s: %v", name, address, err),
						"start the application, or correct the address in the site file; visitors get an error until then")
				} else {
					_ = conn.Close() // it was only asked whether it can be had
				}
				mu.Lock()
				defer mu.Unlock()
				findings = append(findings, f)
			})
		}
	}
	asking.Wait()
	slices.SortFunc(findings, func(a, b control.Finding) int { return strings.Compare(a.Code+a.Text, b.Code+b.Text) })
	return findings
}
