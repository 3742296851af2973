package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"tarima/supervisor/control"
	"tarima/supervisor/openedx"
	"tarima/supervisor/site"
)

// sizeReport is what `tarima size --json` prints.
type sizeReport struct {
	MemoryFrom string `json:"memoryFrom"` // what limits the memory; "" for a machine that is only asked about
	Swap       int64  `json:"swap"`       // bytes that this machine has
	openedx.Explanation
}

func (c *cli) sizeCommand() *cobra.Command {
	var memory string
	var cores int
	var asJSON, table bool
	cmd := c.verb("size", cobra.NoArgs, func(*cobra.Command, []string) error {
		if table && (asJSON || memory != "" || cores != 0) {
			return &exitError{exitUsage, errors.New(c.say("size.tableAlone"))}
		}
		if table {
			text, err := c.sizesTable()
			if err == nil {
				_, err = fmt.Fprint(c.out, text)
			}
			return err
		}
		report, err := c.sizeOf(memory, cores)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(c.out, report)
		}
		c.printSize(report)
		return nil
	})
	flags := cmd.Flags()
	flags.StringVar(&memory, "memory", "", c.say("flag.sizeMemory"))
	flags.IntVar(&cores, "cores", 0, c.say("flag.sizeCores"))
	flags.BoolVar(&table, "table", false, c.say("flag.sizeTable"))
	flags.BoolVar(&asJSON, "json", false, c.say("flag.json"))
	return cmd
}

// sizeOf explains the size of this machine, or of one with that memory and
// those cores, for the services of the site file when there is one.
func (c *cli) sizeOf(memory string, cores int) (sizeReport, error) {
	host, err := site.DetectHost()
	if err != nil {
		return sizeReport{}, err
	}
	var config site.Config
	parsed, err := site.Load(c.paths().SiteFile)
	switch {
	case err == nil:
		config = parsed
	case !errors.Is(err, fs.ErrNotExist):
		return sizeReport{}, problemOf(c.paths().SiteFile, err)
	}
	report := sizeReport{MemoryFrom: host.MemoryFrom, Swap: int64(host.Swap)}
	if config.Size.Memory > 0 {
		report.MemoryFrom = c.paths().SiteFile
	}
	if memory != "" {
		if config.Size.Memory, err = site.ParseBytes(memory); err != nil {
			return sizeReport{}, &exitError{exitUsage, fmt.Errorf("--memory %q: %w", memory, err)}
		}
		report.MemoryFrom = ""
	}
	if cores < 0 {
		return sizeReport{}, &exitError{exitUsage, fmt.Errorf("--cores %d: %s", cores, c.say("size.coresWrong"))}
	}
	if cores > 0 {
		config.Size.Cores = cores
	}
	config = site.Defaults(config, host)
	report.Explanation, err = openedx.Explain(int64(config.Size.Memory), config.Size.Cores, config.Enabled, openedx.GrantedLimits(config))
	return report, err
}

func (c *cli) printSize(r sizeReport) {
	rows := [][]cell{{
		{c.say("head.service"), faint},
		{c.say("size.head.what"), faint},
		{c.say("size.head.value"), faint},
		{c.say("size.head.next", values{"Memory": bytesText(r.NextMemory), "Cores": r.NextCores}), faint},
		{c.say("size.head.why"), faint},
	}}
	for _, n := range r.Numbers {
		next := numberText(n.Unit, n.Next)
		if n.Next == n.Value {
			next = "=" // more memory changes nothing here
		}
		rows = append(rows, []cell{
			{text: n.Service},
			{text: c.say("size.name." + n.Name)},
			{numberText(n.Unit, n.Value), bold},
			{text: next},
			{text: c.say("size.from." + string(n.From))},
		})
	}
	writeTable(c.out, c.color(), rows)
	fmt.Fprintln(c.out)
	if r.MemoryFrom != "" {
		from := r.MemoryFrom
		if from == site.MemoryFromMachine {
			from = c.say("size.fromMachine")
		}
		fmt.Fprintln(c.out, c.say("size.memoryFrom", values{"From": from, "Swap": bytesText(r.Swap)}))
	}
	fmt.Fprintln(c.out, c.say("size.promise"))
	if len(r.OnDemand) > 0 {
		fmt.Fprintln(c.out, c.say("size.onDemand", values{"Services": strings.Join(r.OnDemand, ", ")}))
	}
	if r.Sizes.Missing > 0 {
		fmt.Fprintln(c.out, c.say("size.tight", values{
			"Missing": bytesText(r.Sizes.Missing), "Swap": bytesText(openedx.HostNeeds(r.Sizes).Swap),
		}))
	}
}

func numberText(unit string, n int64) string {
	if unit == "bytes" {
		return bytesText(n)
	}
	return strconv.FormatInt(n, 10)
}

// sizesTable is the table of the documentation in Markdown: the usual sizes
// of servers with every service on.
func (c *cli) sizesTable() (string, error) {
	var heads []string
	var columns []openedx.Explanation
	for _, u := range openedx.UsualSizes() {
		e, err := openedx.Explain(u.Memory, u.Cores, func(string) bool { return true }, nil)
		if err != nil {
			return "", err
		}
		columns = append(columns, e)
		heads = append(heads, bytesText(u.Memory))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| | %s |\n|---|%s\n", strings.Join(heads, " | "), strings.Repeat("--:|", len(heads)))
	for i, n := range columns[0].Numbers {
		if n.Name == "memory" { // the head of the column
			continue
		}
		name := c.say("size.name." + n.Name)
		if n.Service != "" {
			name = "`" + n.Service + "`: " + name
		}
		b.WriteString("| " + name)
		for _, e := range columns {
			b.WriteString(" | " + numberText(e.Numbers[i].Unit, e.Numbers[i].Value))
		}
		b.WriteString(" |\n")
	}
	b.WriteString("| " + c.say("size.onDemandRow"))
	for _, e := range columns {
		text := "–"
		if len(e.OnDemand) > 0 {
			text = strings.Join(e.OnDemand, ", ")
		}
		b.WriteString(" | " + text)
	}
	b.WriteString(" |\n")
	return b.String(), nil
}

// examineSwap wants the swap that a small machine's site needs.
func examineSwap(host site.Host, config site.Config) (f control.Finding, ok bool) {
	config = site.Defaults(config, host)
	sizes, err := openedx.Size(int64(config.Size.Memory), config.Size.Cores, config.Enabled, openedx.GrantedLimits(config))
	if err != nil {
		return f, false // the site's own check says what is wrong
	}
	need := openedx.HostNeeds(sizes).Swap
	switch {
	case need == 0:
		return finding("HOST-SWAP", levelOK, fmt.Sprintf("%s of swap; the services fit the memory without", bytesText(int64(host.Swap))), ""), true
	// A swap file of 1 GiB holds a page less than that.
	case int64(host.Swap) >= need-1<<20:
		return finding("HOST-SWAP", levelOK, fmt.Sprintf("%s of swap for what does not fit the memory at busy moments", bytesText(int64(host.Swap))), ""), true
	}
	return finding("HOST-SWAP", levelWarning,
		fmt.Sprintf("%s of swap: with this memory a site wants %s for its busy moments", bytesText(int64(host.Swap)), bytesText(need)),
		swapAdvice(need)), true
}

// swapAdvice says how swap comes to a machine, for good.
func swapAdvice(bytes int64) string {
	const file = "/swapfile"
	if _, err := os.Stat(file); err == nil {
		return fmt.Sprintf("enlarge the swap, or apt install systemd-zram-generator and set zram-size to %d in /etc/systemd/zram-generator.conf", bytes>>20)
	}
	return fmt.Sprintf("fallocate -l %[2]dM %[1]s && chmod 600 %[1]s && mkswap %[1]s && swapon %[1]s && echo '%[1]s none swap sw 0 0' >> /etc/fstab"+
		" (or, on a disk that should not be written to, apt install systemd-zram-generator and zram-size = %[2]d in /etc/systemd/zram-generator.conf)",
		file, bytes>>20)
}
