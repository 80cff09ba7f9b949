package registry

import (
	"fmt"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/pantala/pantala/blob"
)

// Platform is what an image runs on. The zero value is this machine's.
type Platform struct {
	OS, Arch, Variant string
}

var platformRE = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// ParsePlatform reads "os/arch", "os/arch/variant" or "arch"; "" is the zero Platform.
func ParsePlatform(s string) (Platform, error) {
	if s == "" {
		return Platform{}, nil
	}
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if !platformRE.MatchString(p) || len(parts) > 3 {
			return Platform{}, fmt.Errorf("platform %.100q: %w: expected OS/ARCH or OS/ARCH/VARIANT, for example linux/arm64", s, blob.ErrInvalid)
		}
	}
	var p Platform
	switch len(parts) {
	case 1:
		p.Arch = parts[0]
	case 2:
		p.OS, p.Arch = parts[0], parts[1]
	case 3:
		p.OS, p.Arch, p.Variant = parts[0], parts[1], parts[2]
	}
	return p.normal(), nil
}

// String is "os/arch" or "os/arch/variant".
func (p Platform) String() string {
	if p == (Platform{}) {
		p = p.normal()
	}
	s := p.OS + "/" + p.Arch
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// normal is p with one spelling for each platform, as containerd normalises them: arm64 alone is v8, arm alone is v7,
// amd64 alone is v1.
func (p Platform) normal() Platform {
	if p.Arch == "" {
		p.Arch = runtime.GOARCH
	}
	if p.OS == "" {
		p.OS = "linux" // what is mounted is an image for Linux, whatever pantala was built for
	}
	p.OS, p.Arch, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Arch), strings.ToLower(p.Variant)
	if p.Variant != "" && p.Variant[0] >= '0' && p.Variant[0] <= '9' {
		p.Variant = "v" + p.Variant
	}
	switch p.Arch {
	case "x86_64", "x86-64":
		p.Arch = "amd64"
	case "i386", "i486", "i586", "i686":
		p.Arch, p.Variant = "386", ""
	case "aarch64":
		p.Arch = "arm64"
	case "armhf":
		p.Arch, p.Variant = "arm", "v7"
	case "armel":
		p.Arch, p.Variant = "arm", "v6"
	}
	p.Variant = strings.TrimSuffix(p.Variant, ".0")
	switch {
	case p.Arch == "amd64" && p.Variant == "v1", p.Arch == "arm64" && p.Variant == "v8":
		p.Variant = ""
	case p.Arch == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// rank says how well an image for q runs on p; lower is better, and -1 is not at all. A processor runs what was built
// for its predecessors: arm v7 runs v6 and v5, arm64 v8.4 runs v8.3 and 32-bit arm, amd64 v3 runs v2, and 386.
func (p Platform) rank(q Platform) int {
	p, q = p.normal(), q.normal()
	if p.OS != q.OS {
		return -1
	}
	if p.Arch == q.Arch {
		if p.Variant == q.Variant {
			return 0
		}
		mine, ok := version(p)
		theirs, ok2 := version(q)
		if !ok || !ok2 || theirs > mine {
			return -1
		}
		if mine >= 900 && theirs < 900 && theirs > mine-95 {
			return -1 // arm64 v9.0 has all of v8.5, v9.1 of v8.6, and so on
		}
		return mine - theirs
	}
	const otherArch = 10_000 // behind every variant of the same architecture
	switch {
	case p.Arch == "amd64" && q.Arch == "386":
		return otherArch
	case p.Arch == "arm64" && q.Arch == "arm":
		if theirs, ok := version(q); ok && theirs <= 800 {
			return otherArch + 800 - theirs
		}
	}
	return -1
}

// version makes variants of one architecture comparable: v8.4 is 804.
func version(p Platform) (int, bool) {
	v := p.Variant
	switch p.Arch {
	case "amd64":
		if v == "" {
			v = "v1"
		}
	case "arm64":
		if v == "" {
			v = "v8"
		}
	case "arm":
	default:
		return 0, false
	}
	major, minor, _ := strings.Cut(strings.TrimPrefix(v, "v"), ".")
	if minor == "" {
		minor = "0"
	}
	a, err := strconv.ParseUint(major, 10, 6)
	b, err2 := strconv.ParseUint(minor, 10, 6)
	if err != nil || err2 != nil || !strings.HasPrefix(v, "v") {
		return 0, false
	}
	if p.Arch == "arm" && (a < 5 || a > 8) || p.Arch == "arm64" && (a < 8 || a > 9) || p.Arch == "amd64" && (a < 1 || b > 0) {
		return 0, false
	}
	return int(a)*100 + int(b), true
}
