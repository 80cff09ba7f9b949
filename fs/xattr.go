package fs

import (
	"net/url"
	"strconv"
	"strings"
)

// Extended attributes of the file say where its bytes come from (xattr(7); user.* is readable by everybody who
// may read the file).
const (
	attrID      = "user.pantala.id"      // blob id: "url:…", "sha256:…"
	attrDigest  = "user.pantala.digest"  // "sha256:<hex>", absent while unknown
	attrPresent = "user.pantala.present" // bytes on this machine, decimal
	attrSource  = "user.pantala.source"  // canonical URL without user, query and fragment
)

type attributes struct {
	fixed   map[string]string
	present func() int64
}

func newAttributes(f File) *attributes {
	a := &attributes{fixed: map[string]string{}, present: f.Present}
	for name, value := range map[string]string{attrID: idText(f), attrDigest: f.Digest, attrSource: publicSource(f.Source)} {
		if value != "" {
			a.fixed[name] = value
		}
	}
	return a
}

func idText(f File) string {
	if f.ID.Kind == 0 {
		return ""
	}
	return f.ID.String()
}

func (a *attributes) get(name string) (string, bool) {
	if name == attrPresent && a.present != nil {
		return strconv.FormatInt(a.present(), 10), true
	}
	value, ok := a.fixed[name]
	return value, ok
}

// list is every name that get knows, each ended by a NUL, always in the same order.
func (a *attributes) list() string {
	var b strings.Builder
	for _, name := range []string{attrID, attrDigest, attrPresent, attrSource} {
		if _, ok := a.get(name); ok {
			b.WriteString(name + "\x00")
		}
	}
	return b.String()
}

// publicSource is a source as everybody on the machine may see it, here and in the mount table: signed URLs
// carry their secrets in the user, the query or the fragment, so these are left out.
func publicSource(source string) string {
	u, err := url.Parse(source)
	if err != nil || u.Scheme == "" {
		source, _, _ = strings.Cut(source, "?")
		source, _, _ = strings.Cut(source, "#")
		return source
	}
	u.User, u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = nil, "", false, "", ""
	return u.String()
}
