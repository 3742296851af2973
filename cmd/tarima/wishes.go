package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"tarima/store/record"
	"tarima/supervisor"
	"tarima/supervisor/control"
	"tarima/supervisor/openedx"
	"tarima/supervisor/site"
)

// wishes is what is wanted of the site.
type wishes struct {
	mu      sync.Mutex // one change at a time
	config  site.Config
	file    []byte      // nil: nobody has said yet what is wanted
	opened  site.Config // with which engine and network were opened
	trouble string      // why the file on disk is not what is wanted; "": it is
	notes   []string    // what is not as it should be, for people
	floor   uint64      // the generation that containers have, when the store lost it
}

// noSiteYet is what there is to do after the installation.
func (a *appliance) noSiteYet() string {
	return "no site file yet: copy /usr/share/tarima/tarima.toml to " + a.paths.SiteFile + ", set site.host in it, then: systemctl reload tarima"
}

// wanted is a site file that can be read, with what it says.
type wanted struct {
	file   []byte
	config site.Config
}

func (a *appliance) setTrouble(text string) {
	a.wishes.mu.Lock()
	defer a.wishes.mu.Unlock()
	a.wishes.trouble = text
}

// refuse tells that a site file is not put into effect.
func (a *appliance) refuse(text string) {
	a.log.Error(text)
	a.tell(record.RefusedEvent, text)
}

// build turns a site file into services, settings and routes.
func (a *appliance) build(config site.Config) (openedx.Plan, error) {
	password, err := mailPassword(config.Mail.PasswordFile)
	if err != nil {
		return openedx.Plan{}, err
	}
	door, err := doorSecrets(config)
	if err != nil {
		return openedx.Plan{}, err
	}
	return openedx.Build(openedx.Input{
		Site:         defaultSite,
		Config:       config,
		MailPassword: password,
		Door:         door,
		Dirs: openedx.Dirs{
			Config: filepath.Join(a.paths.siteDir(defaultSite), "config"),
			Data:   filepath.Join(a.paths.siteDir(defaultSite), "data"),
		},
		Secrets: func(name string, generate func() (string, error)) (string, error) {
			return a.store.Secret(defaultSite, name, generate)
		},
	})
}

func mailPassword(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("mail.password_file: %w", err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimRight(line, "\r"), nil
}

// apply makes a checked site file what is wanted: settings to disk, then one
// transaction in the store, then the loop is woken.
func (a *appliance) apply(ctx context.Context, file []byte, config site.Config) (control.Applied, error) {
	a.wishes.mu.Lock()
	defer a.wishes.mu.Unlock()
	before, known, err := a.store.Applied(defaultSite)
	if err != nil {
		return control.Applied{}, err
	}
	if !sameEngine(a.wishes.opened, config) {
		return control.Applied{}, control.Conflict("[engine], [network] and [images] take effect with a restart of the daemon, which leaves the containers running: systemctl restart tarima")
	}
	plan, err := a.build(config)
	if err != nil {
		return control.Applied{}, control.Invalid(nil, "%v", err)
	}
	if err := openedx.Materialise(plan); err != nil {
		return control.Applied{}, fmt.Errorf("write the settings: %w", err)
	}
	applied := record.Applied{Generation: before.Generation, SiteFile: file, Release: config.Site.Release, At: time.Now()}
	changes := a.changes(before, known, config)
	if !known || string(before.SiteFile) != string(file) {
		applied.Generation = max(before.Generation, a.wishes.floor) + 1
	} else {
		applied.At = before.At
	}
	plan.Desired.Generation = applied.Generation
	if err := a.supervisor.Apply(ctx, plan.Desired, applied); err != nil {
		return control.Applied{}, err
	}
	a.wishes.file, a.wishes.config, a.wishes.trouble, a.wishes.notes = file, config, "", plan.Notes
	if a.proxyDiffers(before, known, config) {
		a.reloadProxy(ctx)
	}
	return control.Applied{Generation: applied.Generation, Changes: changes}, nil
}

// notes are what the release says of what was applied.
func (a *appliance) notes() []string {
	a.wishes.mu.Lock()
	defer a.wishes.mu.Unlock()
	return a.wishes.notes
}

// sameEngine says whether what only a new engine can take up is unchanged.
func sameEngine(a, b site.Config) bool {
	return a.Engine == b.Engine && a.Network.Range4 == b.Network.Range4 && a.Network.Range6 == b.Network.Range6 &&
		a.Images.Credentials == b.Images.Credentials && slices.Equal(a.Images.Insecure, b.Images.Insecure) &&
		maps.EqualFunc(a.Images.Mirrors, b.Images.Mirrors, slices.Equal)
}

// changes says in words what is new against the file that was applied before.
func (a *appliance) changes(before record.Applied, known bool, config site.Config) []string {
	if !known {
		return []string{"first site file"}
	}
	old, err := parseSiteFile("the last applied site file", before.SiteFile)
	if err != nil {
		return []string{"the file that was applied before cannot be read any more"}
	}
	var changes []string
	for _, c := range site.Diff(old, config) {
		changes = append(changes, c.String())
	}
	return changes
}

// readWanted reads and checks the site file that a request carries, or the one
// on disk.
func (a *appliance) readWanted(file []byte) (wanted, error) {
	name := "the site file sent"
	if file == nil {
		name = a.paths.SiteFile
		data, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			return wanted{}, control.NotFound("there is no site file %s; begin with a copy of /usr/share/tarima/tarima.toml", name)
		}
		if err != nil {
			return wanted{}, err
		}
		file = data
	}
	config, err := parseSiteFile(filepath.Clean(name), file)
	if err != nil {
		return wanted{}, problemOf(name, err)
	}
	return wanted{file: file, config: config}, nil
}

// Apply implements control.Backend.
func (a *appliance) Apply(ctx context.Context, file []byte) (control.Applied, error) {
	w, err := a.readWanted(file)
	if err == nil {
		var applied control.Applied
		if applied, err = a.apply(ctx, w.file, w.config); err == nil {
			return applied, nil
		}
	}
	a.tell(record.RefusedEvent, err.Error())
	return control.Applied{}, err
}

// Plan implements control.Backend.
func (a *appliance) Plan(ctx context.Context, file []byte) (control.Planned, error) {
	if file == nil {
		steps, err := a.supervisor.Plan(ctx)
		return control.Planned{Steps: noNil(steps)}, err
	}
	w, err := a.readWanted(file)
	if err != nil {
		return control.Planned{}, err
	}
	plan, err := a.build(w.config)
	if err != nil {
		return control.Planned{}, control.Invalid(nil, "%v", err)
	}
	steps, err := a.supervisor.PlanFor(plan.Desired)
	if err != nil {
		return control.Planned{}, err
	}
	before, known, err := a.store.Applied(defaultSite)
	return control.Planned{Steps: noNil(steps), Changes: a.changes(before, known, w.config)}, err
}

func noNil(steps []supervisor.StepStatus) []supervisor.StepStatus {
	if steps == nil {
		return []supervisor.StepStatus{}
	}
	return steps
}
