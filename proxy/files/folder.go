package files

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"tarima/proxy/coding"
)

// identity is which file this is, and in which state: a file that was replaced
// or written to has another. The zero value is no file.
type identity struct {
	device, inode uint64
	size          int64
	modified      int64 // nanoseconds
	changed       int64 // nanoseconds; nobody can set it back
}

func identityOf(info fs.FileInfo) identity {
	id := identity{size: info.Size(), modified: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.device, id.inode = st.Dev, st.Ino
		id.changed = time.Unix(st.Ctim.Unix()).UnixNano()
	}
	return id
}

// place is what of a folder says whether it is still the same.
func (id identity) place() identity { return identity{device: id.device, inode: id.inode} }

// openFolder opens a folder of a site's static folder. os.Root sees to it that
// neither the path nor a symbolic link leads out of the first, nor later out of
// the second.
func openFolder(base, below string) (*os.Root, identity, error) {
	root, err := os.OpenRoot(base)
	if err != nil {
		return nil, identity{}, err
	}
	defer func() { _ = root.Close() }() // read only
	folder, err := root.OpenRoot(path.Clean(below))
	if err != nil {
		return nil, identity{}, err
	}
	info, err := folder.Stat(".")
	if err != nil {
		_ = folder.Close() // read only
		return nil, identity{}, err
	}
	return folder, identityOf(info).place(), nil
}

// cleanName makes the decoded path of a request a name below a folder; "" is the
// folder itself. It returns false for what is never served.
func cleanName(name string) (string, bool) {
	if !utf8.ValidString(name) || len(name) > 4096 {
		return "", false
	}
	for i := range len(name) {
		if name[i] < ' ' || name[i] == 0x7f || name[i] == '\\' {
			return "", false
		}
	}
	for element := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(element, ".") { // hidden files, "." and ".."
			return "", false
		}
	}
	trailing := strings.HasSuffix(name, "/")
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if trailing && name != "" {
		name += "/" // a folder, and nothing else
	}
	return name, true
}

// lookUp finds the regular file that a name stands for: of a folder it is the
// index.html.
func lookUp(folder *os.Root, name string) (string, identity, error) {
	dir := name == "" || strings.HasSuffix(name, "/")
	name = strings.TrimSuffix(name, "/")
	if !dir {
		info, err := folder.Stat(name)
		if err != nil {
			return "", identity{}, notFound(err)
		}
		if !info.IsDir() {
			return regular(name, info)
		}
	}
	name = path.Join(name, "index.html")
	info, err := folder.Stat(name)
	if err != nil {
		return "", identity{}, notFound(err)
	}
	return regular(name, info)
}

// regular refuses what is no file: a FIFO would block, a device might do
// anything.
func regular(name string, info fs.FileInfo) (string, identity, error) {
	if !info.Mode().IsRegular() {
		return "", identity{}, ErrNotFound
	}
	return name, identityOf(info), nil
}

// notFound keeps what an administrator can do something about.
func notFound(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EIO) {
		return err
	}
	return ErrNotFound
}

// open a file that has the given identity, and no other.
func open(folder *os.Root, name string, want identity) (*os.File, error) {
	// Should it have become a FIFO in the meantime, nobody waits for its writer.
	f, err := folder.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errUnsteady
		}
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && identityOf(info) != want {
		err = errUnsteady
	}
	if err != nil {
		_ = f.Close() // the first error is told
		return nil, err
	}
	return f, nil
}

// Endings of encoded files beside the file itself. Those that Prepare makes
// have hidden names, so that they are never mistaken for files of the release.
var endings = [coding.Identity]string{coding.Brotli: ".br", coding.Zstd: ".zst", coding.Gzip: ".gz"}

// madeName is where Prepare keeps an encoding of the file.
func madeName(name string, c coding.Coding) string {
	dir, base := path.Split(name)
	return dir + "." + base + ".made" + endings[c]
}

// madeOf is the file that an encoding of that name was made of.
func madeOf(base string) (string, bool) {
	for _, ending := range endings {
		if name, ok := strings.CutSuffix(base, ".made"+ending); ok && len(name) > 1 && name[0] == '.' {
			return name[1:], true
		}
	}
	return "", false
}

// sources are the names of what may be an encoding of the file: what Prepare
// made, then what the release brought.
func sources(name string) (names [2 * coding.Identity]string) {
	for c := range coding.Identity {
		names[2*c], names[2*c+1] = madeName(name, c), name+endings[c]
	}
	return names
}

// survey is the identities of a file and of all that may be its encodings.
type survey struct {
	file     identity
	encoded  [2 * coding.Identity]identity // as sources
	youngest int64                         // change, in nanoseconds
}

func surveyOf(folder *os.Root, name string, file identity) survey {
	s := survey{file: file, youngest: file.changed}
	if !encodable(name, file.size) {
		return s
	}
	for i, source := range sources(name) {
		// Lstat: an encoding is a file, not a way to another one.
		if info, err := folder.Lstat(source); err == nil && info.Mode().IsRegular() {
			s.encoded[i] = identityOf(info)
			s.youngest = max(s.youngest, s.encoded[i].changed)
		}
	}
	return s
}

// largest file whose content is looked at; larger ones are films and archives.
const largest = 16 << 20

func encodable(name string, size int64) bool {
	return size >= coding.Smallest && size <= largest && coding.Compressible(TypeOf(name))
}
