package engine

import (
	"bytes"
	"strings"
	"time"
)

// A log file holds one line for each line that a container writes:
//
//	2026-01-02T15:04:05.000000001Z stdout F text of the line
//
// The time is RFC 3339 in UTC; the stream is stdout, stderr, or log for what
// the writer itself has to say. F ends a line; P is a part of one that is
// longer than maxPart or has no end yet: the next entry of the same stream goes
// on with it. This is the format that Kubernetes calls CRI.

// maxPart is how many bytes of one line are kept in memory before they are
// written as a part.
const maxPart = 16 << 10

// Streams of a log.
const (
	streamOut = "stdout"
	streamErr = "stderr"
	streamLog = "log"
)

// LogLine is one line of a container's log.
type LogLine struct {
	Time   time.Time
	Stream string // stdout, stderr, or log: a remark of the log writer
	Text   string // without the end of the line; may hold any byte but that
	// Partial: the line goes on in the next LogLine of the stream, because it
	// is longer than MaxLogLine or the container has not ended it.
	Partial bool
}

// MaxLogLine is the longest line that a reader joins from its parts, in bytes.
const MaxLogLine = 1 << 20

// appendEntry appends one entry to buffer.
func appendEntry(buffer []byte, at time.Time, stream string, full bool, text []byte) []byte {
	buffer = at.UTC().AppendFormat(buffer, timeFormat)
	buffer = append(buffer, ' ')
	buffer = append(buffer, stream...)
	if full {
		buffer = append(buffer, " F "...)
	} else {
		buffer = append(buffer, " P "...)
	}
	buffer = append(buffer, text...)
	return append(buffer, '\n')
}

// timeFormat is RFC3339Nano with all nine digits, so that entries sort as text.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// parseEntry reads one entry without its newline. It reports false for a line
// that is not one, such as the torn end of a file on a full disk.
func parseEntry(line []byte) (LogLine, bool) {
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return LogLine{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return LogLine{}, false
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return LogLine{}, false
	}
	tag, text, ok := bytes.Cut(rest, []byte{' '})
	if !ok || len(tag) != 1 || (tag[0] != 'F' && tag[0] != 'P') {
		return LogLine{}, false
	}
	switch string(stream) {
	case streamOut, streamErr, streamLog:
	default:
		return LogLine{}, false
	}
	return LogLine{Time: at, Stream: string(stream), Text: string(text), Partial: tag[0] == 'P'}, true
}

// joiner puts the parts of a line together, for each stream by itself, as the
// parts of two streams may lie between each other.
type joiner struct{ open map[string]*openLine }

type openLine struct {
	at   time.Time
	text strings.Builder
}

// add takes an entry and returns a whole line when there is one.
func (j *joiner) add(entry LogLine) (LogLine, bool) {
	if j.open == nil {
		j.open = map[string]*openLine{}
	}
	line := j.open[entry.Stream]
	if line == nil {
		if !entry.Partial {
			return entry, true
		}
		line = &openLine{at: entry.Time}
		j.open[entry.Stream] = line
	}
	line.text.WriteString(entry.Text)
	if entry.Partial && line.text.Len() < MaxLogLine {
		return LogLine{}, false
	}
	delete(j.open, entry.Stream)
	return LogLine{Time: line.at, Stream: entry.Stream, Text: line.text.String(), Partial: entry.Partial}, true
}

// rest returns what has no end yet, oldest first.
func (j *joiner) rest() []LogLine {
	var lines []LogLine
	for _, stream := range []string{streamOut, streamErr, streamLog} {
		if line := j.open[stream]; line != nil {
			lines = append(lines, LogLine{Time: line.at, Stream: stream, Text: line.text.String(), Partial: true})
		}
	}
	j.open = nil
	if len(lines) == 2 && lines[1].Time.Before(lines[0].Time) {
		lines[0], lines[1] = lines[1], lines[0]
	}
	return lines
}
