package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// figure is one line of bench.json.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Peer is what was measured beside it in the same run, in the same unit.
	Peer      string   `json:"peer,omitempty"`
	PeerValue *float64 `json:"peer_value,omitempty"`
	Ratio     *float64 `json:"ratio,omitempty"` // value by peer_value
	Goal      string   `json:"goal,omitempty"`
	Met       *bool    `json:"met,omitempty"` // absent without a goal
	// Spread is how far the single measurements lie apart, in words.
	Spread string `json:"spread,omitempty"`
	Note   string `json:"note,omitempty"`
}

// by sets what was measured beside it.
func (f figure) by(peer string, value float64) figure {
	f.Peer, f.PeerValue = peer, &value
	if value != 0 {
		ratio := f.Value / value
		f.Ratio = &ratio
	}
	return f
}

// atMost sets a goal for the value.
func (f figure) atMost(limit float64) figure {
	met := f.Value <= limit
	f.Goal, f.Met = fmt.Sprintf("at most %g %s", limit, f.Unit), &met
	return f
}

// ratioAtMost sets a goal for the ratio.
func (f figure) ratioAtMost(limit float64) figure {
	met := f.Ratio != nil && *f.Ratio <= limit
	f.Goal, f.Met = fmt.Sprintf("ratio at most %g", limit), &met
	return f
}

// ratioAtLeast sets a goal for the ratio.
func (f figure) ratioAtLeast(limit float64) figure {
	met := f.Ratio != nil && *f.Ratio >= limit
	f.Goal, f.Met = fmt.Sprintf("ratio at least %g", limit), &met
	return f
}

// figures are all that one run measured.
type figures struct {
	list []figure
	out  io.Writer
}

// add takes one and shows it at once.
func (f *figures) add(one figure) {
	f.list = append(f.list, one)
	fmt.Fprintln(f.out, "  "+one.String())
}

func (f figure) String() string {
	text := fmt.Sprintf("%s: %s %s", f.Name, number(f.Value), f.Unit)
	if f.PeerValue != nil {
		text += fmt.Sprintf(", %s %s", f.Peer, number(*f.PeerValue))
	}
	if f.Ratio != nil {
		text += fmt.Sprintf(", ratio %.3f", *f.Ratio)
	}
	if f.Spread != "" {
		text += " (" + f.Spread + ")"
	}
	if f.Met != nil {
		text += fmt.Sprintf("; goal %s: %s", f.Goal, metWord(f.Met))
	}
	if f.Note != "" {
		text += "; " + f.Note
	}
	return text
}

func number(v float64) string {
	switch {
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func metWord(met *bool) string {
	switch {
	case met == nil:
		return ""
	case *met:
		return "met"
	}
	return "not met"
}

// table shows all figures.
func (f *figures) table() {
	w := tabwriter.NewWriter(f.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FIGURE\tVALUE\tPEER\tRATIO\tSPREAD\tGOAL\t")
	for _, one := range f.list {
		peer, ratio := "", ""
		if one.PeerValue != nil {
			peer = one.Peer + " " + number(*one.PeerValue)
		}
		if one.Ratio != nil {
			ratio = fmt.Sprintf("%.3f", *one.Ratio)
		}
		fmt.Fprintf(w, "%s\t%s %s\t%s\t%s\t%s\t%s\t%s\n", one.Name, number(one.Value), one.Unit, peer, ratio, one.Spread, one.Goal, metWord(one.Met))
	}
	_ = w.Flush() // the terminal is gone: nobody reads
}

// doorFigures begin with this.
const doorFigures = "door, "

// markdown shows the figures of a file as a table of docs/performance.md: those
// of the door, or the others.
func markdown(out io.Writer, path string, door bool) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w; make bench writes it", err)
	}
	var all []figure
	if err := json.Unmarshal(data, &all); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	fmt.Fprint(out, "| figure | value | beside it | ratio | spread | goal | met |\n|---|---|---|---|---|---|---|\n")
	for _, one := range all {
		name, ofDoor := strings.CutPrefix(one.Name, doorFigures)
		if ofDoor != door {
			continue
		}
		peer, ratio := "", ""
		if one.PeerValue != nil {
			peer = one.Peer + ": " + number(*one.PeerValue)
		}
		if one.Ratio != nil {
			ratio = fmt.Sprintf("%.2f", *one.Ratio)
		}
		fmt.Fprintf(out, "| %s | %s %s | %s | %s | %s | %s | %s |\n", name, number(one.Value), one.Unit, peer, ratio, one.Spread, one.Goal, metWord(one.Met))
	}
	return nil
}

// write puts the figures into a file. Those of an earlier run that this one
// did not measure stay.
func (f *figures) write(path string) error {
	var all []figure
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("figures of an earlier run in %s: %w; remove the file", path, err)
	}
	for _, one := range f.list {
		i := slices.IndexFunc(all, func(old figure) bool { return old.Name == one.Name })
		if i < 0 {
			all = append(all, one)
		} else {
			all[i] = one
		}
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, append(text, '\n'), 0o644); err != nil { //nolint:gosec // no secret
		return err
	}
	return errors.Join(os.Rename(temp, filepath.Clean(path)))
}

// samples are measurements of one thing.
type samples []float64

// quantile returns the value below which the share q of the samples lies (the
// nearest rank); 0 of none.
func (s samples) quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (s samples) median() float64 { return s.quantile(0.5) }

// spread says between which values the middle half and all samples lie.
func (s samples) spread() string {
	if len(s) < 2 {
		return ""
	}
	return fmt.Sprintf("n=%d, quarters %s to %s, all %s to %s", len(s),
		number(s.quantile(0.25)), number(s.quantile(0.75)), number(slices.Min(s)), number(slices.Max(s)))
}

// pairs are interleaved measurements of two things; the ratio of each pair
// saw the machine in the same state.
type pairs struct{ ours, theirs samples }

func (p *pairs) add(ours, theirs float64) {
	p.ours = append(p.ours, ours)
	p.theirs = append(p.theirs, theirs)
}

// figure gives the medians, and the median of the pairs' ratios.
func (p *pairs) figure(name, unit, peer string) figure {
	var ratios samples
	for i := range p.ours {
		ratios = append(ratios, p.ours[i]/p.theirs[i])
	}
	f := figure{Name: name, Value: p.ours.median(), Unit: unit}.by(peer, p.theirs.median())
	ratio := ratios.median()
	f.Ratio = &ratio
	f.Spread = "ratios: " + ratios.spread()
	return f
}
