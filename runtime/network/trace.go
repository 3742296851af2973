package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// packet is what is known of a packet that a host's firewall would judge: an
// example, never sent.
type packet struct {
	hook           nftables.ChainHook
	in, out        string // interfaces; "": not known
	src, dst       netip.Addr
	sport, dport   uint16 // 0: not known
	established    bool   // of a connection, in the direction of the answer
	toHost         bool   // its target is an address of the host
	translatedFrom bool   // its connection leaves under the host's address
}

// outcome is the set of what may become of a packet: more than one when a rule
// asks something that cannot be told beforehand.
type outcome uint8

const (
	passed  outcome = 1 << iota
	stopped         // dropped or refused
	onward          // the end of the chain was reached
)

// maxJumps is the kernel's bound for chains that call chains
// (NFT_JUMP_STACK_SIZE).
const maxJumps = 16

// ruleset reads a host's firewall as far as a trace needs it.
type ruleset struct {
	chains []*nftables.Chain
	// rulesOf and elements ask the kernel.
	rulesOf  func(c *nftables.Chain) ([]*nftables.Rule, error)
	elements func(t *nftables.Table, set string) (*nftables.Set, []nftables.SetElement, error)
}

func readRuleset(conn *nftables.Conn) (*ruleset, error) {
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list firewall chains: %w", asUnsupported(err))
	}
	return &ruleset{
		chains:  chains,
		rulesOf: func(c *nftables.Chain) ([]*nftables.Rule, error) { return conn.GetRules(c.Table, c) },
		elements: func(t *nftables.Table, name string) (*nftables.Set, []nftables.SetElement, error) {
			set, err := conn.GetSetByName(t, name)
			if err != nil {
				return nil, nil, err
			}
			set.Table = t
			elements, err := conn.GetSetElements(set)
			return set, elements, err
		},
	}, nil
}

// traced is what a host's firewall does with a packet.
type traced struct {
	outcome outcome
	// stop names the rule or the policy that stops the packet, or may.
	stop string
	// chains are those that were entered until then, each "family table chain".
	chains []string
}

// sure says that the packet is stopped whatever else is true.
func (t traced) sure() bool { return t.outcome == stopped }

// trace follows a packet through all chains of its hook that are not Tarima's.
// A packet passes when every chain lets it pass.
func (rs *ruleset) trace(p packet) traced {
	family := nftables.TableFamilyIPv4
	if p.dst.Is6() {
		family = nftables.TableFamilyIPv6
	}
	var bases []*nftables.Chain
	for _, c := range rs.chains {
		if c.Table == nil || c.Hooknum == nil || *c.Hooknum != p.hook || strings.HasPrefix(c.Table.Name, "tarima_") {
			continue
		}
		if (c.Table.Family == family || c.Table.Family == nftables.TableFamilyINet) && (c.Type == "" || c.Type == nftables.ChainTypeFilter) {
			bases = append(bases, c)
		}
	}
	slices.SortStableFunc(bases, func(a, b *nftables.Chain) int { return cmp.Compare(priority(a), priority(b)) })
	result := traced{outcome: passed}
	for _, c := range bases {
		w := walk{rules: rs, packet: p}
		o := w.chain(c, 0)
		if o&onward != 0 {
			o &^= onward
			if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
				o |= stopped
				w.stop = "the policy drop of " + chainTitle(c)
			} else {
				o |= passed
			}
		}
		if o&stopped == 0 {
			continue
		}
		result.stop, result.chains = w.stop, w.entered
		if o == stopped {
			result.outcome = stopped
			return result
		}
		result.outcome |= stopped
	}
	return result
}

func priority(c *nftables.Chain) nftables.ChainPriority {
	if c.Priority == nil {
		return 0
	}
	return *c.Priority
}

// chainTitle is a chain as nft names it.
func chainTitle(c *nftables.Chain) string {
	return familyName(c.Table.Family) + " " + c.Table.Name + " " + c.Name
}

// walk is one packet's way through one base chain.
type walk struct {
	rules   *ruleset
	packet  packet
	stop    string
	entered []string
}

func (w *walk) chain(c *nftables.Chain, depth int) outcome {
	title := chainTitle(c)
	w.entered = append(w.entered, title)
	rules, err := w.rules.rulesOf(c)
	if err != nil || depth > maxJumps {
		w.stop = "rules of " + title + " that cannot be read here"
		return passed | stopped | onward
	}
	var seen outcome
	for i, r := range rules {
		matches, verdict, to := w.judge(c.Table, r)
		if matches == no || verdict == goesOn {
			continue
		}
		ends := matches == yes
		var o outcome
		switch verdict {
		case accepts:
			o = passed
		case drops, unclear:
			o = stopped
			w.stop = fmt.Sprintf("rule %d of %s", i+1, title)
			if verdict == unclear {
				o |= passed
			}
		case returns:
			o = onward
		case jumps, goesTo:
			target := w.find(c.Table, to)
			if target == nil {
				o = passed | stopped | onward
				break
			}
			o = w.chain(target, depth+1)
			if verdict == jumps && o&onward != 0 {
				ends = false
				o &^= onward
			}
		}
		seen |= o
		if ends {
			return seen
		}
	}
	return seen | onward
}

func (w *walk) find(t *nftables.Table, name string) *nftables.Chain {
	for _, c := range w.rules.chains {
		if c.Table != nil && c.Table.Name == t.Name && c.Table.Family == t.Family && c.Name == name {
			return c
		}
	}
	return nil
}

// verdict of a rule whose conditions hold.
type verdict int

const (
	goesOn verdict = iota // with the next rule
	accepts
	drops
	returns
	jumps
	goesTo
	unclear // it ends here, but how cannot be told
)

func verdictOf(v *expr.Verdict) (verdict, string) {
	switch v.Kind {
	case expr.VerdictAccept:
		return accepts, ""
	case expr.VerdictDrop:
		return drops, ""
	case expr.VerdictReturn:
		return returns, ""
	case expr.VerdictJump:
		return jumps, v.Chain
	case expr.VerdictGoto:
		return goesTo, v.Chain
	case expr.VerdictContinue, expr.VerdictBreak:
		return goesOn, ""
	default:
		return unclear, ""
	}
}
