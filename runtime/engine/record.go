package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	"tarima/runtime/container"
)

// recordName is the extension of a containerd container that holds our record.
// Labels of containerd would be the place, but may have at most 4,096 bytes.
const recordName = "tarima"

// Labels of containerd for what is looked up.
const (
	labelRun       = "tarima/run"
	labelContainer = "tarima/container" // on snapshots
)

// runRecord is what the engine keeps with a container.
type runRecord struct {
	Run         string              `json:"run"`
	Site        string              `json:"site"`
	Name        string              `json:"name"`
	Image       string              `json:"image"` // reference with digest
	Labels      map[string]string   `json:"labels,omitempty"`
	Reduced     []string            `json:"reduced,omitempty"`
	LogFile     string              `json:"logFile"`
	StopSignal  string              `json:"stopSignal"`
	StopTimeout time.Duration       `json:"stopTimeout,omitempty"`
	Started     time.Time           `json:"started"`
	Limits      container.Limits    `json:"limits"`
	IDBase      uint32              `json:"idBase,omitempty"`
	Hostname    string              `json:"hostname"`
	Addresses   container.Addresses `json:"addresses"`
}

const recordType = "tarima/engine/run"

func (r runRecord) any() (typeurl.Any, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: recordType, Value: text}, nil
}

// recordOf reads the record of a container; a container without one is not
// ours and gives an error.
func recordOf(c containers.Container) (runRecord, error) {
	extension := c.Extensions[recordName]
	if extension == nil {
		return runRecord{}, fmt.Errorf("container %s was not made by this program", c.ID)
	}
	var record runRecord
	if err := json.Unmarshal(extension.GetValue(), &record); err != nil {
		return runRecord{}, fmt.Errorf("record of container %s: %w", c.ID, err)
	}
	return record, nil
}

// updateRecord changes the record of a container.
func (e *Engine) updateRecord(ctx context.Context, id string, change func(*runRecord)) error {
	c, err := e.client.ContainerService().Get(ctx, id)
	if err != nil {
		return e.notFound(id, err)
	}
	record, err := recordOf(c)
	if err != nil {
		return err
	}
	change(&record)
	extension, err := record.any()
	if err != nil {
		return err
	}
	c.Extensions[recordName] = extension
	if _, err := e.client.ContainerService().Update(ctx, c, "extensions."+recordName); err != nil {
		return fmt.Errorf("record of container %s: %w", id, err)
	}
	return nil
}

// newRun returns a value that no run before had.
func newRun() string {
	var bytes [8]byte
	_, _ = rand.Read(bytes[:]) // it never fails
	return hex.EncodeToString(bytes[:])
}

func (e *Engine) exitFile(id string) string { return filepath.Join(e.cfg.State, "exits", id+".json") }

func (e *Engine) filesDir(id string) string { return filepath.Join(e.cfg.State, "files", id) }

func (e *Engine) logFile(site, name string) string {
	return filepath.Join(e.cfg.LogDir(site), name+".log")
}
