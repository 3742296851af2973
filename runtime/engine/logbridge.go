package engine

import (
	"context"
	"io"
	"log/slog"
	"sync"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// containerdLogger returns a context in which containerd logs to the given
// slog.Logger. What containerd calls information is detail to us.
func containerdLogger(ctx context.Context, logger *slog.Logger) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.InfoLevel)
	l.AddHook(slogHook{logger.With("component", "containerd")})
	return log.WithLogger(ctx, logrus.NewEntry(l))
}

// adoptGlobalLogger does the same for what containerd logs without a context.
// The logger of the first engine of a process gets it.
var adoptGlobalLogger = func() func(*slog.Logger) {
	var once sync.Once
	return func(logger *slog.Logger) {
		once.Do(func() { log.L = log.G(containerdLogger(context.Background(), logger)) })
	}
}()

type slogHook struct{ logger *slog.Logger }

func (slogHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h slogHook) Fire(entry *logrus.Entry) error {
	level := slog.LevelDebug
	if harmless[entry.Message] {
		return h.log(entry, level)
	}
	switch entry.Level {
	case logrus.WarnLevel:
		level = slog.LevelWarn
	case logrus.ErrorLevel, logrus.FatalLevel, logrus.PanicLevel:
		level = slog.LevelError
	}
	return h.log(entry, level)
}

// harmless are messages that containerd gives a higher level than they deserve
// here: the end of a shim's log when its last container is removed, the
// shim's farewell, and a file system feature that hardly any server has.
var harmless = map[string]bool{
	"copy shim log":                     true,
	"copy shim log after reload":        true,
	"failed check for fsverity support": true,
}

func (h slogHook) log(entry *logrus.Entry, level slog.Level) error {
	ctx := entry.Context
	if ctx == nil {
		ctx = context.Background()
	}
	if !h.logger.Enabled(ctx, level) {
		return nil
	}
	attrs := make([]slog.Attr, 0, len(entry.Data))
	for key, value := range entry.Data {
		attrs = append(attrs, slog.Any(key, value))
	}
	h.logger.LogAttrs(ctx, level, entry.Message, attrs...)
	return nil
}
