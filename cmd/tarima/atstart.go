package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"tarima/supervisor/site"
)

// atStart is what a daemon that starts has to go by.
type atStart struct {
	// candidates are the site files that can be read, the best first: the one on
	// disk, and the one that was applied last where that is another.
	candidates []wanted
	// unusable says why the file on disk is not among them; nil: it is.
	unusable error
	none     bool // nobody has asked for a site yet
	// config is the first candidate's, or the defaults of this host: the engine
	// and the network are opened with it.
	config site.Config
}

// wantedAtStart reads the site file and what was applied last.
func (a *appliance) wantedAtStart() atStart {
	var s atStart
	add := func(name string, file []byte) error {
		config, err := parseSiteFile(name, file)
		if err == nil {
			s.candidates = append(s.candidates, wanted{file, config})
		}
		return err
	}
	data, err := os.ReadFile(a.paths.SiteFile)
	if err == nil {
		err = add(a.paths.SiteFile, data)
	}
	s.unusable = err
	last, known, err := a.store.Applied(defaultSite)
	if err == nil && known && !(s.unusable == nil && bytes.Equal(last.SiteFile, data)) {
		err = add("the last applied site file", last.SiteFile)
	}
	if len(s.candidates) > 0 {
		s.config = s.candidates[0].config
		return s
	}
	s.none = err == nil && !known && errors.Is(s.unusable, os.ErrNotExist)
	// Only now is it of interest that there is nothing to fall back to either.
	host, hostErr := site.DetectHost()
	s.unusable = errors.Join(s.unusable, err, hostErr)
	s.config = site.Defaults(site.Config{}, host)
	return s
}

// applyAtStart puts the first candidate that works into effect. That it is not
// the file on disk is reported and keeps the daemon up; so does a site without
// any candidate. Candidates of which none works are an error.
func (a *appliance) applyAtStart(ctx context.Context, s atStart) error {
	a.wishes.opened = s.config
	if s.none {
		a.log.Info(a.noSiteYet())
		return nil
	}
	trouble := ""
	if s.unusable != nil {
		trouble = "the site file cannot be used: " + strings.ReplaceAll(s.unusable.Error(), "\n", "; ")
	}
	var failed []error
	for _, candidate := range s.candidates {
		if !sameEngine(candidate.config, s.config) {
			continue // the engine is open for another one
		}
		if trouble != "" {
			trouble += "; the last applied one goes on"
			a.refuse(trouble)
		}
		_, err := a.apply(ctx, candidate.file, candidate.config)
		if err == nil {
			a.setTrouble(trouble)
			return nil
		}
		failed = append(failed, err)
		trouble = "the site file cannot be put into effect: " + err.Error()
	}
	if len(failed) > 0 {
		return fmt.Errorf("no site file can be put into effect: %w", errors.Join(failed...))
	}
	a.refuse(trouble)
	a.setTrouble(trouble)
	return nil
}
