package store

import (
	"fmt"

	"go.etcd.io/bbolt"

	"tarima/store/record"
)

// Applied returns the site file that was applied last. After a recovery
// without a copy there is none; the generation is then still the highest that
// is known, so that the next one is higher.
func (s *Store) Applied(site string) (record.Applied, bool, error) {
	if err := checkSite(site); err != nil {
		return record.Applied{}, false, err
	}
	var a record.Applied
	found, err := s.get(location{site, bucketState, keyApplied}, &a)
	if err != nil {
		return record.Applied{}, false, err
	}
	if !found {
		a = record.Applied{}
		if a.Generation, err = s.generation(site); err != nil {
			return record.Applied{}, false, err
		}
	}
	return a, found, nil
}

func (s *Store) generation(site string) (uint64, error) {
	var g uint64
	_, err := s.get(location{site, bucketState, keyGeneration}, &g)
	return g, err
}

// SetApplied commits a site file as what is wanted. A generation lower than
// the highest known is refused with ErrOlderGeneration.
func (s *Store) SetApplied(site string, a record.Applied) error {
	if err := checkSite(site); err != nil {
		return err
	}
	a.At = a.At.UTC()
	applied, generation := location{site, bucketState, keyApplied}, location{site, bucketState, keyGeneration}
	value, err := encode(applied, a)
	if err != nil {
		return err
	}
	highest, err := s.generation(site)
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	same := false
	err = s.view(func(tx *bbolt.Tx) error {
		// Once more under the lock: another SetApplied may have been faster.
		if raw := lookup(tx, generation); raw != nil {
			if err := decode(generation, raw, &highest); err != nil {
				return fmt.Errorf("read %s: %w", generation, err)
			}
		}
		same = string(lookup(tx, applied)) == string(value)
		return nil
	})
	if err != nil || same {
		return err
	}
	if a.Generation < highest {
		return fmt.Errorf("%w: %d is stored, %d was to be; read what is applied and try again", ErrOlderGeneration, highest, a.Generation)
	}
	number, err := encode(generation, a.Generation)
	if err != nil {
		return err
	}
	err = s.update(func(tx *bbolt.Tx) error {
		b, err := siteBucket(tx, site, bucketState)
		if err != nil {
			return err
		}
		if err := b.Put(keyGeneration, number); err != nil {
			return err
		}
		return b.Put(keyApplied, value)
	})
	if err != nil {
		return fmt.Errorf("store the applied site file of %s: %w", site, err)
	}
	s.copier.wake()
	return nil
}

// Intents returns what administrators asked of services, by service.
func (s *Store) Intents(site string) (map[string]record.Intent, error) {
	if err := checkSite(site); err != nil {
		return nil, err
	}
	return list[record.Intent](s, site, bucketIntents)
}

// SetIntent stores what an administrator asked of a service.
func (s *Store) SetIntent(site string, i record.Intent) error {
	if err := checkNames(site, "service", i.Service); err != nil {
		return err
	}
	i.At = i.At.UTC()
	return s.put(location{site, bucketIntents, []byte(i.Service)}, i)
}

// Maintenance returns which public hosts are closed; the zero value: none.
func (s *Store) Maintenance(site string) (record.Maintenance, error) {
	if err := checkSite(site); err != nil {
		return record.Maintenance{}, err
	}
	var m record.Maintenance
	_, err := s.get(location{site, bucketState, keyMaintenance}, &m)
	return m, err
}

// SetMaintenance stores which public hosts are closed.
func (s *Store) SetMaintenance(site string, m record.Maintenance) error {
	if err := checkSite(site); err != nil {
		return err
	}
	m.Since, m.Until = m.Since.UTC(), m.Until.UTC()
	return s.put(location{site, bucketState, keyMaintenance}, m)
}

// Images returns the pinned digests, by reference.
func (s *Store) Images(site string) (map[string]record.Image, error) {
	if err := checkSite(site); err != nil {
		return nil, err
	}
	return list[record.Image](s, site, bucketImages)
}

// SetImage pins a reference to a digest.
func (s *Store) SetImage(site string, i record.Image) error {
	if err := checkSite(site); err != nil {
		return err
	}
	if err := checkRef(i.Ref); err != nil {
		return err
	}
	i.At = i.At.UTC()
	return s.put(location{site, bucketImages, []byte(i.Ref)}, i)
}

// Jobs returns the jobs with their reasons and results, by name.
func (s *Store) Jobs(site string) (map[string]record.JobRecord, error) {
	if err := checkSite(site); err != nil {
		return nil, err
	}
	return list[record.JobRecord](s, site, bucketJobs)
}

// SetJob stores the state of a job. Of a long log tail the last 64 KiB stay.
func (s *Store) SetJob(site string, j record.JobRecord) error {
	if err := checkNames(site, "job", j.Name); err != nil {
		return err
	}
	j.Started, j.Ended = j.Started.UTC(), j.Ended.UTC()
	j.Message = shorten(j.Message)
	j.LogTail = shortenTail(j.LogTail)
	return s.put(location{site, bucketJobs, []byte(j.Name)}, j)
}

func checkNames(site, kind, name string) error {
	if err := checkSite(site); err != nil {
		return err
	}
	return checkKey(kind, name)
}
