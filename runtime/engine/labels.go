package engine

import (
	"context"
	"encoding/json"
	"maps"

	"tarima/runtime/container"
)

// SetLabels adds labels to those of a container, or replaces the values of
// those that it has, for example the hash of limits that were changed live.
func (e *Engine) SetLabels(ctx context.Context, id string, labels map[string]string) error {
	ctx = e.contextFor(ctx)
	unlock, err := e.work.take(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	return e.updateRecord(ctx, id, func(r *runRecord) {
		if r.Labels == nil {
			r.Labels = map[string]string{}
		}
		maps.Copy(r.Labels, labels)
	})
}

// updateSpecLabel keeps container.LabelSpec true after a change of limits: the
// store can be rebuilt from it.
func updateSpecLabel(labels map[string]string, limits container.Limits) {
	var spec container.Spec
	text, ok := labels[container.LabelSpec]
	if !ok || json.Unmarshal([]byte(text), &spec) != nil {
		return // not written by the supervisor; nothing to keep true
	}
	spec.Limits = limits
	if changed, err := json.Marshal(spec); err == nil {
		labels[container.LabelSpec] = string(changed)
	}
}
