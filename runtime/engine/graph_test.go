package engine

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/plugin"
	"github.com/prometheus/client_golang/prometheus"
)

// TestPluginGraph guards the list of what is linked in: every plugin finds
// what it requires, and nothing came along that does more than run containers.
func TestPluginGraph(t *testing.T) {
	plugins := graph()
	kinds := map[plugin.Type]bool{}
	for _, p := range plugins {
		kinds[p.Type] = true
	}
	// Asked for by their users only if present.
	optional := []plugin.Type{"io.containerd.image-verifier.v1", "io.containerd.mount-handler.v1", "io.containerd.monitor.task.v1", "io.containerd.tracing.processor.v1"}
	for _, p := range plugins {
		for _, required := range p.Requires {
			if required != "*" && !kinds[required] && !slices.Contains(optional, required) {
				t.Errorf("%s requires %s, which is not linked in", p.URI(), required)
			}
		}
		uri := strings.ToLower(p.URI())
		for _, unwanted := range []string{"cri", "nri", "restart", "sandbox", "metric", "server.", "http", "tracing", "devmapper", "btrfs", "zfs", "erofs", "shim.v1.task", "monitor"} {
			if strings.Contains(uri, unwanted) {
				t.Errorf("%s is linked in and nobody wants it", p.URI())
			}
		}
	}
	if len(plugins) < 25 || len(plugins) > 45 {
		t.Errorf("%d plugins are linked in", len(plugins))
	}
}

// Nothing of containerd may put metrics into the registry of the whole
// process.
func TestNoGlobalMetrics(t *testing.T) {
	newEngine(t)
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if name := family.GetName(); !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("metric %s is registered", name)
		}
	}
}

// The packages of Kubernetes and of containerd's own server stay out.
func TestNoUnwantedPackages(t *testing.T) {
	output, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.FieldsSeq(string(output)) {
		for _, unwanted := range []string{"containerd/v2/internal/cri", "containerd/v2/internal/nri", "containerd/nri", "k8s.io/client-go", "containerd/v2/plugins/server", "containerd/v2/cmd/containerd/", "containerd/v2/plugins/gc", "tarima/supervisor", "tarima/store", "tarima/proxy"} {
			if strings.Contains(line, unwanted) && line != "tarima/store/record" {
				t.Errorf("%s is linked in", line)
			}
		}
	}
}

// The daemon opens no API socket unless it is asked to.
func TestSockets(t *testing.T) {
	cfg := testConfig(t)
	openEngine(t, cfg)
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	var sockets []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 8 && strings.HasPrefix(fields[7], cfg.State) && fields[3] == "00010000" { // listening
			sockets = append(sockets, strings.TrimPrefix(fields[7], cfg.State))
		}
	}
	if len(sockets) != 1 || sockets[0] != "/events.ttrpc" {
		t.Errorf("listening sockets: %v", sockets)
	}
	info, err := os.Stat(cfg.State + "/events.ttrpc")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the event socket: %v, %v", info, err)
	}
}
