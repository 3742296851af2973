package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"tarima/runtime/container"
	"tarima/store/record"
)

// Rebuilt says what containers' labels gave back.
type Rebuilt struct {
	Generation uint64   // the highest that any container was made for
	Addresses  []string // services
	Images     []string // references
	Jobs       []string
	Skipped    []string // containers whose labels could not be used, with the reason
}

// Rebuild fills a store that lost its content from the labels of the site's
// containers: addresses, image digests, finished jobs and the generation. It
// adds what is missing and changes nothing that is stored, so that it may be
// called at any time. The site file itself is in no label: apply it again, with
// a generation above the one returned.
func (s *Store) Rebuild(site string, containers []container.Status) (Rebuilt, error) {
	var out Rebuilt
	if err := checkSite(site); err != nil {
		return out, err
	}
	// Puts damaged records into quarantine now, for they count as missing.
	addresses, err := list[assignment](s, site, bucketAddresses)
	if err != nil {
		return out, err
	}
	images, err := list[record.Image](s, site, bucketImages)
	if err != nil {
		return out, err
	}
	jobs, err := list[record.JobRecord](s, site, bucketJobs)
	if err != nil {
		return out, err
	}
	found := rebuild{addresses: addresses, images: images, jobs: jobs, values: map[string][]change{}}
	// Running containers first: of two that claim a place, theirs is the true
	// claim.
	ordered := slices.Clone(containers)
	slices.SortStableFunc(ordered, func(a, b container.Status) int {
		return strings.Compare(rank(a)+a.ID, rank(b)+b.ID)
	})
	for _, c := range ordered {
		if c.Labels[container.LabelSite] != site {
			continue
		}
		if err := found.add(site, c, &out); err != nil {
			out.Skipped = append(out.Skipped, fmt.Sprintf("%s: %v", c.ID, err))
		}
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	generation := location{site, bucketState, keyGeneration}
	err = s.view(func(tx *bbolt.Tx) error {
		var stored uint64
		if raw := lookup(tx, generation); raw != nil && decode(generation, raw, &stored) == nil {
			out.Generation = max(out.Generation, stored)
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	if out.Generation > 0 {
		if err := found.put(generation, out.Generation); err != nil {
			return out, err
		}
	}
	err = s.update(func(tx *bbolt.Tx) error {
		for bucket, changes := range found.values {
			b, err := siteBucket(tx, site, bucket)
			if err != nil {
				return err
			}
			for _, c := range changes {
				if err := b.Put(c.key, c.value); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return out, fmt.Errorf("rebuild the store from the containers of %s: %w", site, err)
	}
	s.copier.wake()
	return out, nil
}

func rank(c container.Status) string {
	if c.State == container.Running {
		return "0"
	}
	return "1"
}

type change struct{ key, value []byte }

// rebuild gathers what to write.
type rebuild struct {
	addresses map[string]assignment
	images    map[string]record.Image
	jobs      map[string]record.JobRecord
	values    map[string][]change // by bucket
}

func (r *rebuild) put(l location, v any) error {
	value, err := encode(l, v)
	if err != nil {
		return err
	}
	r.values[l.bucket] = append(r.values[l.bucket], change{l.key, value})
	return nil
}

func (r *rebuild) add(site string, c container.Status, out *Rebuilt) error {
	var spec container.Spec
	if err := json.Unmarshal([]byte(c.Labels[container.LabelSpec]), &spec); err != nil {
		return fmt.Errorf("label %s is not a specification", container.LabelSpec)
	}
	if err := checkKey("service", spec.Name); err != nil {
		return err
	}
	if g, err := strconv.ParseUint(c.Labels[container.LabelGeneration], 10, 64); err == nil {
		out.Generation = max(out.Generation, g)
	}
	if err := r.addAddress(site, spec, out); err != nil {
		return err
	}
	if err := r.addImage(site, spec, c, out); err != nil {
		return err
	}
	return r.addJob(site, spec, c, out)
}

func (r *rebuild) addAddress(site string, spec container.Spec, out *Rebuilt) error {
	if _, known := r.addresses[spec.Name]; known || !spec.Addresses.V4.Is4() {
		return nil
	}
	for name, other := range r.addresses {
		if other.V4 == spec.Addresses.V4 || spec.IDBase != 0 && other.IDBase == spec.IDBase {
			return fmt.Errorf("its place already belongs to %s", name)
		}
	}
	a := assignment{Address: record.Address{Service: spec.Name, V4: spec.Addresses.V4, V6: spec.Addresses.V6, IDBase: spec.IDBase}}
	r.addresses[spec.Name] = a
	out.Addresses = append(out.Addresses, spec.Name)
	return r.put(location{site, bucketAddresses, []byte(spec.Name)}, a)
}

func (r *rebuild) addImage(site string, spec container.Spec, c container.Status, out *Rebuilt) error {
	_, digest, ok := strings.Cut(c.Image, "@")
	usable := ok && !strings.Contains(spec.Image, "@") && checkRef(spec.Image) == nil
	if _, known := r.images[spec.Image]; known || !usable {
		return nil
	}
	image := record.Image{Ref: spec.Image, Digest: digest, At: time.Now().UTC().Round(0)}
	r.images[spec.Image] = image
	out.Images = append(out.Images, spec.Image)
	return r.put(location{site, bucketImages, []byte(spec.Image)}, image)
}

// addJob remembers a job that succeeded, so that it does not run again. One
// that failed is tried again anyway.
func (r *rebuild) addJob(site string, spec container.Spec, c container.Status, out *Rebuilt) error {
	reason := c.Labels[container.LabelReason]
	if _, known := r.jobs[spec.Name]; known || spec.Kind != container.Job || reason == "" ||
		c.State != container.Exited || c.Exit == nil || c.Exit.Unknown || c.Exit.Code != 0 {
		return nil
	}
	j := record.JobRecord{
		Name: spec.Name, Reason: reason, State: record.JobSucceeded,
		Attempts: 1, Started: c.Started.UTC(), Ended: c.Exit.At.UTC(),
	}
	r.jobs[spec.Name] = j
	out.Jobs = append(out.Jobs, spec.Name)
	return r.put(location{site, bucketJobs, []byte(spec.Name)}, j)
}
