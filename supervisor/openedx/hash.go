package openedx

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"slices"

	"tarima/runtime/container"
	"tarima/supervisor"
)

// asked is a hash over what the site file, the release and the secrets ask of
// a service. What this version of Tarima makes of it is left out on purpose
// (the text of its scripts and files, most of the spec): a new version must
// not restart a site whose owner asked for nothing. It shows in the label
// LabelFiles and in the spec's own label instead, and goes in with the next
// start.
//
// Forgetting something here means that a change of the site file does not get
// in; TestHashSeesEveryChange compares with everything that is rendered.
func (b *builder) asked(s *supervisor.Service) string {
	own := b.model.config.Services[s.Spec.Name]
	return b.hash(struct {
		Release, Version string
		Image            string
		Dirs             Dirs
		Env              map[string]string
		StopTimeout      int64
		Values           any
	}{
		b.release.Name, b.release.Version, s.Spec.Image, b.dirs,
		own.Env, int64(own.StopTimeout), b.values(s.Spec.Name),
	})
}

// values are those that the service's command and files are made of.
func (b *builder) values(service string) any {
	c, s, z := b.model.config, b.secrets, b.sizes
	switch service {
	case lms, lmsWorker:
		return []any{
			b.platformValues(), s.jwtPEM, c.Settings.LMS, c.MFE, b.on(scheduler),
			pick(service == lms, z.LMSProcesses, z.LMSConcurrency),
		}
	case cms, cmsWorker:
		return []any{
			b.platformValues(), s.jwtPEM, s.studioOAuth, c.Settings.CMS,
			pick(service == cms, z.CMSProcesses, z.CMSConcurrency),
		}
	case scheduler:
		return []any{c.Site.Timezone, s.redis}
	case mysql:
		return []any{b.release.MySQL, s.mysqlRoot, z.InnoDBPool}
	case mongodb:
		return []any{b.release.MongoDB, z.WiredTigerCache}
	case redis:
		return []any{s.redis, z.RedisMemory}
	case redisCache:
		return []any{s.redisCache, z.CacheMemory}
	case search:
		return []any{s.meiliMaster, z.SearchIndexing, z.Cores}
	case smtp:
		return []any{b.lmsHost, c.Mail.Smarthost, c.Mail.Port, c.Mail.User, s.smarthost, c.Network.Range4}
	case mfe:
		return b.release.OpenEdX.MicroFrontends
	}
	return nil
}

// platformValues reach LMS and Studio alike.
func (b *builder) platformValues() any {
	c, s := b.model.config, b.secrets
	// The release's name stands elsewhere, and languages are rows of the
	// database, which a job writes.
	names := c.Site
	names.Release, names.Languages = "", nil
	return []any{
		names, b.port, b.mail.host, b.mail.port, b.mail.user, b.mail.password, b.mail.tls, b.mail.ssl, c.Mail.From,
		b.on(search), b.on(mfe),
		b.release.OpenEdX.Theme, s.mysql, s.redis, s.redisCache, s.meiliMaster, s.meiliKey, s.platform,
	}
}

func pick(first bool, a, b int) int {
	if first {
		return a
	}
	return b
}

// contents is a hash over the files that a container mounts.
func (b *builder) contents(spec *container.Spec) string {
	var files []File
	for _, mount := range spec.Mounts {
		if f := b.folderOf(mount); f != nil {
			files = append(files, f.files...)
		}
	}
	slices.SortFunc(files, func(a, b File) int { return compare(a.Path, b.Path) })
	return b.hash(files)
}

func (b *builder) folderOf(mount container.Mount) *folder {
	rel, err := filepath.Rel(b.dirs.Config, mount.Source)
	if err != nil || mount.Source == "" {
		return nil
	}
	return b.folders[filepath.ToSlash(rel)]
}

// hash is keyed, because weak passwords of people are among the values and
// hashes are shown: nobody without the site's own secret can try candidates.
func (b *builder) hash(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // values that were encoded into files before
	}
	mac := hmac.New(sha256.New, []byte(b.secrets.platform))
	mac.Write(data)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
