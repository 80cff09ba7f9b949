package erofs

import (
	"archive/tar"
	"fmt"
	"strings"
	"testing"
)

// image is a case: layers, bottom first.
type image struct {
	name    string
	layers  [][]byte
	refused bool // unpacking it fails
	either  bool // it may be refused, if umoci does so too
	alone   bool // umoci and we do not agree, for a reason that the case states
	check   func(t *testing.T, got looks)
}

func file(name, body string) member { return member{name: name, body: body, sec: 1e9} }
func dir(name string) member {
	return member{name: name, flag: tar.TypeDir, mode: 0o755, sec: 1e9 + 1}
}
func symlink(name, to string) member {
	return member{name: name, link: to, flag: tar.TypeSymlink, mode: 0o777, sec: 1e9 + 2}
}
func hardlink(name, to string) member { return member{name: name, link: to, flag: tar.TypeLink} }
func gone(name string) member {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return file(name[:i+1]+".wh."+name[i+1:], "")
	}
	return file(".wh."+name, "")
}
func xattr(m member, pairs ...string) member {
	for i := 0; i < len(pairs); i += 2 {
		m.pax = append(m.pax, "SCHILY.xattr."+pairs[i], pairs[i+1])
	}
	return m
}

// aclOf encodes an access control list of tag, permissions, id.
func aclOf(entries ...[3]uint32) string {
	b := []byte{2, 0, 0, 0}
	for _, e := range entries {
		b = append(b, byte(e[0]), byte(e[0]>>8), byte(e[1]), byte(e[1]>>8), byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24))
	}
	return string(b)
}

const noID = 1<<32 - 1

func nasty() []image {
	full := aclOf([3]uint32{1, 7, noID}, [3]uint32{2, 5, 1234}, [3]uint32{4, 5, noID}, [3]uint32{16, 6, noID}, [3]uint32{32, 0, noID})
	short := aclOf([3]uint32{1, 6, noID}, [3]uint32{4, 4, noID}, [3]uint32{32, 1, noID})
	capV2 := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	capV3 := "\x01\x00\x00\x03\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xe8\x03\x00\x00"
	layers := func(all ...[]byte) [][]byte { return all }
	base := archive(dir("d"), file("d/a", "a"), file("d/b", "b"), dir("d/sub"), file("d/sub/x", "x"), file("top", "top"), symlink("link", "d/a"))
	many := func(n int, f func(i int) member) (all []member) {
		for i := range n {
			all = append(all, f(i))
		}
		return all
	}
	return []image{
		{name: "empty", layers: layers(archive())},
		{name: "no-layers", layers: nil},
		{name: "plain", layers: layers(base)},
		// Whiteouts.
		{name: "whiteout-file", layers: layers(base, archive(gone("d/a")))},
		{name: "whiteout-dir", layers: layers(base, archive(gone("d")))},
		{name: "whiteout-then-new", layers: layers(base, archive(gone("d"), file("d/new", "n")))},
		{name: "new-then-whiteout", layers: layers(base, archive(file("d/new", "n"), gone("d")))},
		{name: "whiteout-own-file", layers: layers(base, archive(file("own", "o"), gone("own"), file("d/a", "newer"), gone("d/a")))},
		{name: "whiteout-nothing", layers: layers(base, archive(gone("nowhere/at/all"), gone("nothing"), gone("top/below-a-file")))},
		{name: "whiteout-bottom", layers: layers(archive(gone("x"), file("x", "x"), gone("x")))},
		{name: "whiteout-symlink", layers: layers(base, archive(gone("link")))},
		{name: "whiteout-through-symlink", layers: layers(archive(dir("real"), file("real/f", "f"), symlink("via", "real")), archive(gone("via/f")))},
		{name: "whiteout-as-dir", layers: layers(base, archive(dir("d/.wh.a"), symlink("d/.wh.b", "x"), hardlink(".wh.top", "nowhere")))},
		{name: "whiteout-parent-dir", layers: layers(base, archive(file("d/.wh.q/inside", "i")))},
		{name: "whiteout-of-whiteout", layers: layers(base, archive(file("d/.wh..wh.a", ""), file(".wh..wh.plnk", ""), file(".wh..wh.aufs", "")))},
		{name: "whiteout-resurrects", layers: layers(base, archive(gone("d/sub")), archive(file("d/sub/y", "y")))},
		{name: "opaque", layers: layers(base, archive(file("d/.wh..wh..opq", ""), file("d/n", "n")))},
		{name: "opaque-late", layers: layers(base, archive(file("d/sub/n", "n"), file("d/n", "n"), file("d/.wh..wh..opq", "")))},
		{name: "opaque-top", layers: layers(base, archive(file("keep", "k"), file(".wh..wh..opq", "")))},
		{name: "opaque-missing", layers: layers(base, archive(file("no/.wh..wh..opq", ""), file("top/.wh..wh..opq", "")))},
		{name: "opaque-and-whiteout", layers: layers(base, archive(dir("d"), gone("d/a"), file("d/.wh..wh..opq", ""), gone("d/b"), dir("d/sub")))},
		{name: "whiteout-empty", layers: layers(base, archive(file("d/.wh.", ""))), refused: true, alone: true}, // umoci removes d
		{name: "whiteout-dot", layers: layers(base, archive(file("d/.wh..", ""))), refused: true, alone: true},  // umoci removes d
		{name: "whiteout-dotdot", layers: layers(base, archive(file("d/sub/.wh...", ""))), refused: true, alone: true},
		// Hard links.
		{name: "hardlinks", layers: layers(archive(file("a", "data"), hardlink("b", "a"), hardlink("c/d", "/a"), hardlink("e", "c/d")))},
		{name: "hardlink-lower", layers: layers(base, archive(hardlink("h", "d/a")))},
		{name: "hardlink-then-replace", layers: layers(archive(file("a", "old"), hardlink("b", "a")), archive(file("a", "new")))},
		{name: "hardlink-then-whiteout", layers: layers(base, archive(hardlink("h", "d/a"), gone("d/a")))},
		{name: "hardlink-over-dir", layers: layers(base, archive(hardlink("d", "top")))},
		{name: "hardlink-to-symlink", layers: layers(archive(file("f", "f"), symlink("s", "f"), hardlink("h", "s")))},
		{name: "hardlink-through-symlink", layers: layers(archive(dir("real"), file("real/f", "f"), symlink("via", "/real"), hardlink("h", "via/f"), hardlink("via/g", "h")))},
		{name: "hardlink-to-device", layers: layers(archive(member{name: "dev", flag: tar.TypeChar, major: 1, minor: 3}, hardlink("h", "dev")))},
		{name: "hardlink-outside", layers: layers(archive(file("etc/passwd", "ours"), hardlink("p", "../../../../etc/passwd"), hardlink("q", "/etc/passwd")))},
		{name: "hardlink-to-gone", layers: layers(base, archive(gone("d/a"), hardlink("h", "d/a"))), refused: true},
		{name: "hardlink-to-nothing", layers: layers(archive(hardlink("h", "nothing"))), refused: true},
		{name: "hardlink-to-dir", layers: layers(archive(dir("d"), hardlink("h", "d"))), refused: true},
		{name: "hardlink-to-top", layers: layers(archive(hardlink("h", "/"))), refused: true},
		{name: "hardlink-to-itself", layers: layers(archive(file("f", "f"), hardlink("f", "f"))), refused: true},
		{name: "hardlink-before-target", layers: layers(archive(hardlink("h", "f"), file("f", "f"))), refused: true},
		{name: "hardlink-many", layers: layers(archive(append([]member{file("f", "f")}, many(300, func(i int) member { return hardlink(fmt.Sprintf("l/%03d", i), "f") })...)...))},
		// Replacement.
		{name: "file-over-dir", layers: layers(base, archive(file("d", "now a file")))},
		{name: "dir-over-file", layers: layers(base, archive(dir("top"), file("top/in", "in")))},
		{name: "dir-over-symlink", layers: layers(archive(dir("real"), file("real/f", "f"), symlink("s", "real")), archive(dir("s"), file("s/g", "g")))},
		{name: "symlink-over-dir", layers: layers(base, archive(symlink("d", "top"), file("z", "z")))},
		{name: "duplicates", layers: layers(archive(file("f", "one"), file("f", "two"), member{name: "f", body: "three", mode: 0o600, uid: 7, gid: 8, sec: 5}))},
		{name: "dir-twice", layers: layers(archive(xattr(dir("d"), "user.old", "o"), file("d/f", "f"), member{name: "d", flag: tar.TypeDir, mode: 0o1777, uid: 3, gid: 4, sec: 9}))},
		{name: "dir-over-dir", layers: layers(base, archive(member{name: "d/", flag: tar.TypeDir, mode: 0o700, uid: 5, gid: 6, sec: 77}))},
		{name: "top-entry", layers: layers(archive(member{name: "./", flag: tar.TypeDir, mode: 0o751, uid: 1, gid: 2, sec: 12345}, file("./f", "f")))},
		{name: "top-entry-absolute", layers: layers(archive(member{name: "/", flag: tar.TypeDir, mode: 0o711, sec: 4}, file("/a/b", "f")))},
		{name: "top-not-dir", layers: layers(archive(symlink("/", "/etc"))), refused: true},
		{name: "top-file", layers: layers(archive(file(".", "f"))), refused: true},
		{name: "empty-name", layers: layers(archive(file("", "f"))), refused: true},
		{name: "below-file", layers: layers(archive(file("f", "f"), file("f/g", "g"))), refused: true},
		{name: "below-file-of-lower", layers: layers(base, archive(file("top/in", "in"))), refused: true},
		// Names.
		{name: "missing-parents", layers: layers(archive(file("a/b/c/d/e", "deep")))},
		{name: "missing-parents-setgid", layers: layers(archive(member{name: "g", flag: tar.TypeDir, mode: 0o2775, gid: 50}, file("g/h/i", "f")))},
		{name: "absolute", layers: layers(archive(file("/abs/file", "f"), file("//two//slashes", "s"), file("/./dot/./f", "d")))},
		{name: "dotdot", layers: layers(archive(file("../out", "o"), file("a/../../b", "b"), file("../../../../../../etc/x", "x"), file("/../y", "y")))},
		{name: "not-utf8", layers: layers(archive(member{name: "\xff\xfe\x80", body: "x"}, dir("d\xc3"), file("d\xc3/\xa4\xff", "y"), symlink("l\xff", "\xfe")))},
		{name: "odd-names", layers: layers(archive(file("with space", "1"), file("new\nline", "2"), file("tab\t", "3"), file("-rf", "4"), file("\"q\"", "5"), file("\\back", "6"), file("*", "7"), file("!first", "8"), file("...", "9"), file("....", "a"), file(".wh", "b"), file(".whatever", "c")))},
		{name: "name-255", layers: layers(archive(file(strings.Repeat("n", 255), "f"), dir(strings.Repeat("d", 255)), file(strings.Repeat("d", 255)+"/"+strings.Repeat("e", 255), "g")))},
		{name: "name-256", layers: layers(archive(file(strings.Repeat("n", 256), "f"))), refused: true},
		{name: "name-256-parent", layers: layers(archive(file(strings.Repeat("n", 256)+"/f", "f"))), refused: true},
		{name: "gnu-long-name", layers: layers(archive(member{name: strings.Repeat("long/", 40) + "f", body: "f", gnu: true}, member{name: "s", link: strings.Repeat("t", 300), flag: tar.TypeSymlink, gnu: true}))},
		{name: "deep", layers: layers(archive(file(strings.Repeat("d/", 400)+"f", "f")))},
		{name: "path-4096", layers: layers(archive(file(strings.Repeat("dd/", 1400)+"f", "f"))), refused: true},
		// Break-outs: what stands behind a link to the outside stays inside.
		{name: "breakout-etc", layers: layers(archive(symlink("e", "/etc"), file("e/pantala-breakout", "in the image")))},
		{name: "breakout-dotdot", layers: layers(archive(symlink("e", "../../../../../../.."), file("e/pantala-breakout", "x"), dir("e/pantala-dir")))},
		{name: "breakout-lower", layers: layers(archive(symlink("e", "/etc")), archive(file("e/pantala-breakout", "x")), archive(symlink("etc", "/tmp"), file("e/second", "y")))},
		{name: "breakout-chain", layers: layers(archive(symlink("a", "b"), symlink("b", "c/../../../d"), file("a/f", "f"), symlink("d2", "/a"), file("d2/g", "g")))},
		{name: "breakout-hardlink", layers: layers(archive(symlink("e", "/etc"), file("etc/hostname", "ours"), hardlink("h", "e/hostname")))},
		{name: "breakout-hardlink-host", layers: layers(archive(symlink("e", "/etc"), hardlink("h", "e/hostname"))), refused: true},
		{name: "breakout-whiteout", layers: layers(archive(dir("etc"), file("etc/f", "f"), symlink("e", "../../../etc")), archive(gone("e/f"), file("e/.wh..wh..opq", "")))},
		{name: "breakout-overwrite-link", layers: layers(archive(symlink("f", "/etc/pantala-breakout"), file("f", "a file now")))},
		{name: "breakout-proc", layers: layers(archive(symlink("p", "/proc/1/root/../etc"), file("p/f", "f")))},
		{name: "breakout-dangling", layers: layers(archive(symlink("e", "no/such/dir"), file("e/f", "f"), symlink("up", "x/../../y"), file("up/g", "g")))},
		{name: "breakout-relative-in-dir", layers: layers(archive(dir("a/b"), symlink("a/b/l", "../../../c"), file("a/b/l/f", "f")))},
		{name: "breakout-last-element", layers: layers(archive(symlink("e", "/etc"), dir("e"), file("e/f", "f")))},
		{name: "link-gone-between", layers: layers(archive(dir("real"), symlink("l", "real")), archive(file("l/x", "x"), gone("l"), file("l/y", "y")))},
		{name: "link-loop", layers: layers(archive(symlink("a", "b"), symlink("b", "a"), file("a/f", "f"))), refused: true},
		{name: "link-to-itself", layers: layers(archive(symlink("a", "a"), file("a/f", "f"))), refused: true},
		{name: "link-to-file", layers: layers(archive(file("f", "f"), symlink("l", "f"), file("l/g", "g"))), refused: true},
		// Attributes.
		{name: "modes", layers: layers(archive(member{name: "suid", mode: 0o4755}, member{name: "sgid", mode: 0o2711}, member{name: "sticky", flag: tar.TypeDir, mode: 0o1777}, member{name: "none", mode: 0o10000}, member{name: "link", link: "x", flag: tar.TypeSymlink, mode: 0o644}, member{name: "type-bits", mode: 0o100640}))},
		{name: "owners", layers: layers(archive(member{name: "big", uid: 1<<32 - 2, gid: 1<<32 - 2}, member{name: "nobody", uid: 65534, gid: 65535}, member{name: "max16", flag: tar.TypeDir, mode: 0o755, uid: 65536, gid: 1 << 31}, member{name: "l", flag: tar.TypeSymlink, link: "x", uid: 1e9, gid: 3e9}))},
		{name: "owner-minus-one", layers: layers(archive(member{name: "f", uid: 1<<32 - 1, gid: 1<<32 - 1, pax: []string{"uid", "4294967295"}}, member{name: "d", flag: tar.TypeDir, mode: 0o755, uid: 12, gid: 13}), archive(member{name: "d", flag: tar.TypeDir, mode: 0o755, uid: 1<<32 - 1, gid: 1<<32 - 1}))},
		{name: "times", layers: layers(archive(member{name: "ns", sec: 1234567890, frac: "123456789"}, member{name: "neg", sec: -1}, member{name: "neg-ns", pax: []string{"mtime", "-5.25"}}, member{name: "zero"}, member{name: "future", sec: 1 << 32}, member{name: "d", flag: tar.TypeDir, mode: 0o755, sec: 7, frac: "5"}, member{name: "s", flag: tar.TypeSymlink, link: "t", sec: 8, frac: "000000001"}))},
		{name: "xattrs", layers: layers(archive(xattr(file("f", "f"), "user.a", "1", "user.b.c", "two\x00zero", "trusted.t", "t", "security.capability", capV2), xattr(dir("d"), "user.d", "d", "trusted.dir", "x"), xattr(file("cap3", "f"), "security.capability", capV3), xattr(symlink("s", "f"), "trusted.l", "l")))},
		{name: "xattr-large", layers: layers(archive(xattr(file("f", "f"), "user.big", strings.Repeat("v", 3000)), xattr(dir("d"), "user.big", strings.Repeat("w", 2500)), file("d/f", "f"), xattr(symlink("s", strings.Repeat("t", 200)), "trusted.x", strings.Repeat("u", 400))))},
		{name: "xattr-labels", layers: layers(archive(xattr(file("f", "f"), "security.selinux", "system_u:object_r:etc_t:s0", "trusted.overlay.opaque", "y", "trusted.overlay.redirect", "/etc", "trusted.overlay.protattr", "p", "user.overlay.opaque", "y"), xattr(dir("d"), "trusted.overlay.opaque", "y", "trusted.overlay.metacopy", "", "trusted.overlay.impure", "y")))},
		{name: "xattr-foreign", layers: layers(archive(xattr(file("f", "f"), "com.apple.quarantine", "q", "system.unknown", "x", "user.ok", "ok", "nonamespace", "n")))},
		{name: "xattr-on-dir-replaced", layers: layers(archive(xattr(dir("d"), "user.a", "1", "user.b", "2"), file("d/f", "f")), archive(xattr(dir("d"), "user.b", "3")))},
		{name: "xattr-user-on-link", layers: layers(archive(xattr(symlink("s", "t"), "user.a", "1"))), alone: true, check: func(t *testing.T, got looks) {
			if got["s"].Xattrs != "" { // umoci gives up, containerd leaves it out
				t.Errorf("%+v", got["s"])
			}
		}},
		{name: "xattr-bad-capability", layers: layers(archive(xattr(file("f", "f"), "security.capability", "short"))), refused: true},
		{name: "xattr-nameless", layers: layers(archive(xattr(file("f", "f"), "user.", "x"))), refused: true},
		{name: "acl", layers: layers(archive(xattr(member{name: "f", mode: 0o600}, "system.posix_acl_access", full), xattr(dir("d"), "system.posix_acl_access", full, "system.posix_acl_default", full), xattr(member{name: "s", mode: 0o777}, "system.posix_acl_access", short)))},
		{name: "acl-inherited", layers: layers(archive(xattr(dir("d"), "system.posix_acl_default", full), file("d/made/f", "f"), dir("d/own"), file("d/own/f", "f"), xattr(dir("e"), "system.posix_acl_default", short), file("e/made/f", "f")))},
		{name: "acl-on-link", layers: layers(archive(xattr(symlink("s", "t"), "system.posix_acl_access", full)))},
		{name: "acl-bad", layers: layers(archive(xattr(file("f", "f"), "system.posix_acl_access", full[:20]))), refused: true},
		{name: "acl-no-mask", layers: layers(archive(xattr(file("f", "f"), "system.posix_acl_access", aclOf([3]uint32{1, 7, noID}, [3]uint32{2, 5, 1234}, [3]uint32{4, 5, noID}, [3]uint32{32, 0, noID})))), refused: true},
		{name: "acl-default-on-file", layers: layers(archive(xattr(file("f", "f"), "system.posix_acl_default", full))), refused: true},
		// Kinds.
		{name: "devices", layers: layers(archive(member{name: "null", flag: tar.TypeChar, major: 1, minor: 3, mode: 0o666}, member{name: "disk", flag: tar.TypeBlock, major: 259, minor: 1 << 19, mode: 0o660, gid: 6}, member{name: "big", flag: tar.TypeChar, major: 4095, minor: 1<<20 - 1}, member{name: "fifo", flag: tar.TypeFifo, mode: 0o622}))},
		{name: "overlay-whiteout-device", layers: layers(archive(file("f", "f")), archive(member{name: "f", flag: tar.TypeChar, mode: 0o666}, member{name: "g", flag: tar.TypeChar}))},
		{name: "device-numbers-cut", layers: layers(archive(member{name: "c", flag: tar.TypeChar, major: 1<<12 + 5, minor: 1<<20 + 9}))},
		{name: "unknown-type", layers: layers(archive(member{name: "v", flag: 'Q'})), refused: true},
		{name: "contiguous", layers: layers(archive(member{name: "f", flag: tar.TypeCont, body: "a file (POSIX)"})), alone: true, check: func(t *testing.T, got looks) {
			if got["f"].Size != 14 { // umoci knows no such type, tar(1) takes it for a file
				t.Errorf("%+v", got["f"])
			}
		}},
		{name: "symlinks", layers: layers(archive(symlink("abs", "/etc/passwd"), symlink("rel", "../x"), symlink("long", strings.Repeat("x/", 2000)+"y"), symlink("dot", "."), symlink("max", strings.Repeat("y", 4095))))},
		{name: "symlink-empty", layers: layers(archive(symlink("s", ""))), refused: true},
		{name: "symlink-too-long", layers: layers(archive(symlink("s", strings.Repeat("z", 4096)))), refused: true},
		// Sizes.
		{name: "sizes", layers: layers(archive(many(40, func(i int) member { return file(fmt.Sprint("f", i), strings.Repeat("s", i*i*17)) })...))},
		{name: "large-file", layers: layers(archive(file("small", "s"), file("large", strings.Repeat("0123456789abcdef", 300<<10)), file("after", "a")))},
		{name: "wide-dir", layers: layers(archive(many(5000, func(i int) member { return file(fmt.Sprintf("wide/%x-%d", i*7919, i), fmt.Sprint(i)) })...), archive(many(2000, func(i int) member { return gone(fmt.Sprintf("wide/%x-%d", i*7919, i)) })...))},
		{name: "long-names-dir", layers: layers(archive(many(300, func(i int) member { return file(fmt.Sprintf("l/%0255d", i), "") })...))},
		{name: "many-layers", layers: func() (all [][]byte) {
			for i := range 127 {
				all = append(all, archive(file("same", fmt.Sprint(i)), file(fmt.Sprint("f", i), fmt.Sprint(i)), gone(fmt.Sprint("f", i-1)), dir(fmt.Sprintf("d%d", i%5))))
			}
			return all
		}()},
		{name: "v7", layers: layers(v7())},
		{name: "truncated", layers: layers(archive(file("f", strings.Repeat("f", 5000)))[:3000]), refused: true},
	}
}

// v7 is an archive of the seventh edition: no magic, no type of directories but a slash.
func v7() []byte {
	m := member{mode: 0o755, sec: 42, uid: 1, gid: 1}
	d := block(0, "old/", "", &m, 0)
	clear(d[257:])
	seal(d)
	m.mode = 0o644
	f := block(0, "old/f", "", &m, 3)
	clear(f[257:])
	seal(f)
	return append(pad(append(append(d, f...), "abc"...)), make([]byte, 1024)...)
}
