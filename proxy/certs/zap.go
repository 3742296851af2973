package certs

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// bridge brings certmagic's log, which is zap's, into ours.
type bridge struct {
	logger *slog.Logger
	fields []zapcore.Field
}

func zapTo(logger *slog.Logger) *zap.Logger { return zap.New(&bridge{logger: logger}) }

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// Enabled serves zapcore.Core.
func (b *bridge) Enabled(l zapcore.Level) bool {
	return b.logger.Enabled(context.Background(), level(l))
}

// With serves zapcore.Core.
func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{logger: b.logger, fields: append(append([]zapcore.Field{}, b.fields...), fields...)}
}

// Check serves zapcore.Core.
func (b *bridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return c.AddCore(e, b)
	}
	return c
}

// Write serves zapcore.Core.
func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range append(append([]zapcore.Field{}, b.fields...), fields...) {
		f.AddTo(values)
	}
	attrs := []slog.Attr{slog.String("from", "certmagic "+e.LoggerName)}
	for k, v := range values.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	b.logger.LogAttrs(context.Background(), level(e.Level), e.Message, attrs...)
	return nil
}

// Sync serves zapcore.Core.
func (b *bridge) Sync() error { return nil }
