package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"tarima/proxy/coding"
	"tarima/store/durable"
)

// Prepared is what Prepare did.
type Prepared struct {
	Files   int // that are worth to be encoded
	Made    int // encodings that were made
	Kept    int // encodings that were there already, made before or brought by the release
	Removed int // encodings of files that are gone or have changed
}

// An encoding has to save a twentieth, or it is not worth its place.
func worthwhile(encoded, plain int) bool { return int64(encoded)*20 <= int64(plain)*19 }

// Prepare makes smaller forms (gzip, zstd, Brotli, each as small as it gets) of
// all files below dir whose type is a compressible one and whose size is from
// coding.Smallest to 16 MiB. It keeps them beside the files under hidden names,
// with the files' mode. A form that is there and is really one of the file is
// kept, whoever made it.
//
// It may be ended at any time and goes on where it was the next time: each form
// is whole or not there. Brotli takes about a second and a half of a core for
// each MB; all work is done in one thread with the lowest priority. Files that
// are being written to are passed over. An error of one file does not keep the
// others from being prepared.
func Prepare(ctx context.Context, dir string) (Prepared, error) {
	type result struct {
		done Prepared
		err  error
	}
	results := make(chan result, 1)
	go func() {
		// The priority is the thread's own; a thread whose goroutine ends
		// without giving it back ends too.
		runtime.LockOSThread()
		defer func() {
			if p := recover(); p != nil {
				results <- result{err: fmt.Errorf("prepare %s: %v", dir, p)}
			}
		}()
		lowPriority()
		done, err := prepare(ctx, dir)
		results <- result{done, err}
	}()
	r := <-results
	return r.done, r.err
}

// lowPriority may be refused, and then the work merely takes its share.
func lowPriority() {
	const idleClass, shift, process = 3, 13, 1 // of linux/ioprio.h
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, process, 0, idleClass<<shift)
}

func prepare(ctx context.Context, dir string) (done Prepared, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return done, fmt.Errorf("prepare static files: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	var names []string
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case entry.IsDir():
			if name != "." && strings.HasPrefix(entry.Name(), ".") {
				return fs.SkipDir
			}
		case !entry.Type().IsRegular():
		case strings.HasPrefix(entry.Name(), "."):
			of, ok := madeOf(entry.Name())
			if !ok {
				break
			}
			if _, err := root.Lstat(path.Join(path.Dir(name), of)); errors.Is(err, fs.ErrNotExist) {
				if err := root.Remove(name); err != nil {
					return err
				}
				done.Removed++
			}
		default:
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return done, fmt.Errorf("prepare static files: %w", err)
	}
	var failures []error
	// What is quick comes first, so that there is something soon.
	for _, c := range []coding.Coding{coding.Gzip, coding.Zstd, coding.Brotli} {
		for _, name := range names {
			if ctx.Err() != nil {
				return done, errors.Join(append(failures, ctx.Err())...)
			}
			if err := done.one(root, name, c); err != nil && !errors.Is(err, errUnsteady) {
				failures = append(failures, fmt.Errorf("prepare static file %q: %w", name, err))
				if len(failures) == 8 { // the disk is full, most likely
					return done, errors.Join(failures...)
				}
			}
		}
	}
	return done, errors.Join(failures...)
}

func (p *Prepared) one(root *os.Root, name string, c coding.Coding) error {
	info, err := root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		return notSteady(err)
	}
	made := madeName(name, c)
	s := surveyOf(root, name, identityOf(info))
	if !encodable(name, info.Size()) {
		return p.remove(root, made)
	}
	if c == coding.Gzip {
		p.Files++
	}
	plain := &form{source: name, id: s.file}
	if err := plain.hash(root); err != nil {
		return err
	}
	for i, source := range sources(name) {
		if coding.Coding(i/2) != c || s.encoded[i] == (identity{}) {
			continue
		}
		e := &form{source: source, id: s.encoded[i]}
		same, err := e.encodes(root, c, plain)
		switch {
		case err != nil:
			return err
		case same:
			p.Kept++
			return nil
		case source == made:
			if err := p.remove(root, made); err != nil {
				return err
			}
		}
	}
	data, err := plain.read(root)
	if err != nil {
		return err
	}
	encoded, err := smallest(data, c)
	if err != nil {
		return err
	}
	if !worthwhile(len(encoded), len(data)) {
		return nil
	}
	if err := (durable.File{Mode: info.Mode().Perm()}).WriteIn(root, made, encoded); err != nil {
		return err
	}
	p.Made++
	return nil
}

// notSteady takes a file that has gone for one that changes.
func notSteady(err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return errUnsteady
	}
	return err
}

func (p *Prepared) remove(root *os.Root, made string) error {
	err := root.Remove(made)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		p.Removed++
	}
	return err
}

// smallest encodes for a file that is encoded once and sent often.
func smallest(data []byte, c coding.Coding) ([]byte, error) {
	var out bytes.Buffer
	switch c {
	case coding.Brotli:
		w := brotli.NewWriterOptions(&out, brotli.WriterOptions{Quality: 11, LGWin: 22})
		_, err := w.Write(data)
		err = errors.Join(err, w.Close())
		return out.Bytes(), err
	case coding.Zstd:
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, err
		}
		return w.EncodeAll(data, nil), w.Close()
	default:
		w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
		if err != nil {
			return nil, err
		}
		_, err = w.Write(data)
		err = errors.Join(err, w.Close())
		return out.Bytes(), err
	}
}
