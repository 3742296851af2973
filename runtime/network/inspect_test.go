package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
)

func codes(found []Finding) []string {
	var cs []string
	for _, f := range found {
		cs = append(cs, f.Code)
	}
	return cs
}

func TestForwardFindings(t *testing.T) {
	drop, pass := nftables.ChainPolicyDrop, nftables.ChainPolicyAccept
	ip := &nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4}
	chain := func(name string, policy *nftables.ChainPolicy) *nftables.Chain {
		return &nftables.Chain{Name: name, Table: ip, Hooknum: nftables.ChainHookForward, Policy: policy}
	}
	plain := func(name string) *nftables.Chain { return &nftables.Chain{Name: name, Table: ip} }
	way := []example{{"wan0", netip.MustParseAddr("10.90.1.3"), anywhere4}}
	for _, in := range []struct {
		name   string
		chains []*nftables.Chain
		want   []string
	}{
		{"nothing", nil, nil},
		{"accepting", []*nftables.Chain{chain("FORWARD", &pass), plain("DOCKER"), plain("ufw-before-forward")}, nil},
		{"plain drop", []*nftables.Chain{chain("FORWARD", &drop)}, []string{CodeForwardDrop}},
		{"Docker", []*nftables.Chain{chain("FORWARD", &drop), plain("DOCKER-USER")}, []string{CodeForwardDocker}},
		{"ufw", []*nftables.Chain{chain("FORWARD", &drop), plain("ufw-user-forward")}, []string{CodeForwardUFW}},
		{"both: a rule of ufw is enough", []*nftables.Chain{plain("ufw-user-forward"), plain("DOCKER"), chain("FORWARD", &drop)}, []string{CodeForwardUFW}},
		{"firewalld", []*nftables.Chain{{Name: "filter_FORWARD", Table: &nftables.Table{Name: "firewalld", Family: nftables.TableFamilyINet}, Hooknum: nftables.ChainHookForward, Policy: &drop}}, []string{CodeForwardFirewall}},
		{"our own", []*nftables.Chain{{Name: "forward", Table: &nftables.Table{Name: hostTable("default"), Family: nftables.TableFamilyINet}, Hooknum: nftables.ChainHookForward, Policy: &drop}}, nil},
		{"other hook", []*nftables.Chain{{Name: "INPUT", Table: ip, Hooknum: nftables.ChainHookInput, Policy: &drop}}, nil},
		{"bridge family", []*nftables.Chain{{Name: "forward", Table: &nftables.Table{Name: "filter", Family: nftables.TableFamilyBridge}, Hooknum: nftables.ChainHookForward, Policy: &drop}}, nil},
		{"IPv6 alone", []*nftables.Chain{{Name: "FORWARD", Table: &nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv6}, Hooknum: nftables.ChainHookForward, Policy: &drop}}, nil},
	} {
		// Every base chain asks the others of its table in turn.
		rules := &ruleset{chains: in.chains, rulesOf: func(c *nftables.Chain) (rules []*nftables.Rule, err error) {
			for _, other := range in.chains {
				if c.Hooknum != nil && other.Hooknum == nil {
					rules = append(rules, &nftables.Rule{Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: other.Name}}})
				}
			}
			return rules, nil
		}}
		found := forwardFindings(rules, way, "tarima01234567")
		if !slices.Equal(codes(found), in.want) {
			t.Errorf("%s: findings %v, want %v", in.name, codes(found), in.want)
		}
		for _, f := range found {
			if f.Level != LevelWarning || !strings.Contains(f.Fix, "tarima01234567") || !strings.HasSuffix(f.Text, ".") {
				t.Errorf("%s: finding %+v is not a sentence with a fix", in.name, f)
			}
		}
	}
}

// TestPrivateMounts looks from a process with the mounts of all, and from one
// with its own, as a unit with PrivateTmp has.
func TestPrivateMounts(t *testing.T) {
	l := newLab(t)
	other, _ := l.hold(false) // stands for init
	for _, in := range []struct {
		flags   uintptr
		private bool
	}{{0, false}, {syscall.CLONE_NEWNS, true}} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), holderEnv+"=inspect", "INSPECT_DIR="+l.dir, fmt.Sprintf("INSPECT_MOUNTS=/proc/%d/ns/mnt", other))
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: in.flags}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		found := strings.Fields(string(out))
		if slices.Contains(found, CodePrivateMounts) != in.private || slices.Contains(found, CodeNoInspection) {
			t.Errorf("findings %v with clone flags %#x, want %s: %v", found, in.flags, CodePrivateMounts, in.private)
		}
	}
}

// inspect is the process of TestPrivateMounts.
func inspect() {
	n := must(Open(Config{Dir: os.Getenv("INSPECT_DIR")}))
	n.hostMounts = os.Getenv("INSPECT_MOUNTS")
	fmt.Fprintln(os.Stdout, strings.Join(codes(n.Inspect(context.Background(), Wanted{Site: "default"})), " "))
}

// TestInspectSeesAndChangesNothing runs against a host with everything wrong.
func TestInspectSeesAndChangesNothing(t *testing.T) {
	l := newLab(t)
	l.outside()
	top := egressTopology()
	wanted := Wanted{Site: top.Site, Prefixes: []netip.Prefix{top.Prefix4, top.Prefix6}, Egress: true}
	has := func(code string) bool { return slices.Contains(codes(l.net.Inspect(t.Context(), wanted)), code) }
	for _, code := range []string{CodeRangeInUse, CodeForwardingOff, CodeForwardDrop, CodeRouterAds, CodeNoTables, CodeNoInspection} {
		if has(code) {
			t.Errorf("a host without fault has finding %s", code)
		}
	}
	l.apply(top)
	if found := codes(l.net.Inspect(t.Context(), wanted)); slices.Contains(found, CodeRangeInUse) || slices.Contains(found, CodeRouterAds) {
		t.Errorf("findings %v about what Tarima itself made", found)
	}
	l.foreignDrop()
	l.inside(l.host, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "lan0"
		if err := h.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
			return err
		}
		if err := l.configure(h, "lan0", []netip.Prefix{netip.MustParsePrefix("10.90.1.77/24")}); err != nil {
			return err
		}
		return writeSysctls([]sysctl{{forward4, "0"}, {"net/ipv6/conf/wan0/accept_ra", "1"}})
	})
	before := l.state(top.Site)
	for _, code := range []string{CodeRangeInUse, CodeForwardingOff, CodeForwardDrop, CodeRouterAds} {
		if !has(code) {
			t.Errorf("finding %s is missing", code)
		}
	}
	found := l.net.Inspect(t.Context(), wanted)
	if len(found) == 0 || found[0].Level != LevelError {
		t.Errorf("the first finding is %+v, want the error", found)
	}
	wanted.Egress = false
	for _, code := range []string{CodeForwardingOff, CodeForwardDrop, CodeRouterAds} {
		if has(code) {
			t.Errorf("finding %s matters to nobody without egress", code)
		}
	}
	if after := l.state(top.Site); after != before {
		t.Errorf("looking has changed\n%s\nto\n%s", before, after)
	}
}
