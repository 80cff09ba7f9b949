package blob

import (
	"crypto/sha256"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Kind says what an ID was made from.
type Kind uint8

const (
	// ByURL: a canonical URL, a validator and a size; see [URLID].
	ByURL Kind = iota + 1
	// ByDigest: the SHA-256 of all bytes, as in an OCI descriptor.
	ByDigest
	// ByInfoHash: the v2 infohash of BEP 52.
	ByInfoHash
	// ByInfoHashV1: the SHA-1 infohash of BEP 3, in the first 20 bytes of Sum.
	ByInfoHashV1
	// ByRoot: one file of a torrent, by its BEP 52 root, length and piece length. Such a blob has no swarm of its
	// own: it is exchanged in those of the torrents it is in.
	ByRoot
)

// ID names a blob. It is comparable, and the same on every node that means the same bytes.
type ID struct {
	Kind Kind
	Sum  Hash
}

var kindNames = map[Kind]string{ByURL: "url", ByDigest: "sha256", ByInfoHash: "btmh", ByInfoHashV1: "btih", ByRoot: "file"}

// String is "url:<hex>", "sha256:<hex>", "btmh:<hex>", "btih:<40 hex>" or "file:<hex>"; [ParseID] reads it back.
func (id ID) String() string {
	if id.Kind == ByInfoHashV1 {
		return "btih:" + id.Sum.String()[:40]
	}
	return kindNames[id.Kind] + ":" + id.Sum.String()
}

// ParseID reads what [ID.String] wrote.
func ParseID(s string) (ID, error) {
	name, sum, _ := strings.Cut(s, ":")
	for k, n := range kindNames {
		if n != name {
			continue
		}
		if k == ByInfoHashV1 {
			if len(sum) != 40 {
				return ID{}, fmt.Errorf("%w: %q is not a v1 infohash (btih: and 40 hexadecimal digits)", ErrInvalid, s)
			}
			sum += strings.Repeat("0", 24)
		}
		h, err := ParseHash(sum)
		if err != nil {
			return ID{}, err
		}
		return ID{k, h}, nil
	}
	return ID{}, fmt.Errorf("%w: %q is not a blob id (url:…, sha256:…, btmh:…, btih:…, file:…)", ErrInvalid, s)
}

// ParseDigest reads "sha256:<64 hex>" (OCI image spec, descriptor digests).
func ParseDigest(s string) (Hash, error) {
	sum, ok := strings.CutPrefix(s, "sha256:")
	if !ok {
		return Hash{}, fmt.Errorf("%w: digest %q does not start with \"sha256:\"", ErrInvalid, s)
	}
	return ParseHash(sum)
}

// URLID names the version of a URL that carries this validator and has size bytes. The validator is a strong
// one (an ETag, or Last-Modified where there is none): another validator or size is another blob.
func URLID(canonical, validator string, size int64) ID {
	return ID{ByURL, sha256.Sum256([]byte("pantala-url-v1\x00" + canonical + "\x00" + validator + "\x00" + strconv.FormatInt(size, 10)))}
}

// DigestID names bytes by their SHA-256.
func DigestID(digest Hash) ID { return ID{ByDigest, digest} }

// Key is the 20 bytes under which the blob's swarm meets, on the wire and at trackers: the (truncated)
// infohash of a torrent, else a rendezvous key that everybody who knows the ID derives.
func (id ID) Key() (k [20]byte) {
	if id.Kind == ByInfoHash || id.Kind == ByInfoHashV1 {
		copy(k[:], id.Sum[:20])
		return k
	}
	h := sha256.Sum256([]byte("pantala-rv-v1\x00" + id.String()))
	copy(k[:], h[:20])
	return k
}

// signatureParams are query parameters that carry a signature, its scope or its expiry, not identity. Each list
// counts only beside its first entry, the signature itself: without it a server may mean anything by "st" or "policy".
var signatureParams = [][]string{
	{"signature", "awsaccesskeyid", "expires", "googleaccessid", "key-pair-id", "policy"},                          // AWS SigV2, CloudFront, GCS V2
	{"sig", "se", "si", "ske", "skoid", "sks", "skt", "sktid", "skv", "sip", "sp", "spr", "sr", "st", "sv", "sdd"}, // Azure SAS
}

// CanonicalURL is the part of a URL that says which object it is: scheme and host in lower case, no default
// port, no user, no fragment, no signature parameters, the others sorted. Parts of a query that do not parse
// stay as they are: dropping them could give two objects one name.
func CanonicalURL(u *url.URL) string {
	c := url.URL{Scheme: strings.ToLower(u.Scheme), Host: strings.ToLower(u.Host), Path: u.Path, RawPath: u.RawPath}
	if p := u.Port(); p == "80" && c.Scheme == "http" || p == "443" && c.Scheme == "https" {
		c.Host = strings.TrimSuffix(c.Host, ":"+p)
	}
	q := url.Values{}
	var odd []string
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		v, err := url.ParseQuery(part)
		if err != nil {
			odd = append(odd, part)
		}
		for k, vs := range v {
			q[k] = append(q[k], vs...)
		}
	}
	names := map[string]bool{}
	for k := range q {
		names[strings.ToLower(k)] = true
	}
	for k := range q {
		l := strings.ToLower(k)
		signs := strings.HasPrefix(l, "x-amz-") || strings.HasPrefix(l, "x-goog-")
		for _, list := range signatureParams {
			signs = signs || names[list[0]] && slices.Contains(list, l)
		}
		if signs {
			q.Del(k)
		}
	}
	if c.RawQuery = q.Encode(); c.RawQuery != "" {
		odd = append([]string{c.RawQuery}, odd...)
	}
	c.RawQuery = strings.Join(odd, "&")
	return c.String()
}
