package main

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/pantala/pantala/config"
)

// ignored are mount options that mean nothing here, or what a pantala mount does anyway (mount(8), fstab(5),
// systemd.mount(5)). Those that start with "x-" or "comment=" are ignored too.
var ignored = []string{
	"ro", "defaults", "auto", "noauto", "user", "users", "nouser", "owner", "group", "_netdev", "nofail", "nosuid",
	"suid", "nodev", "dev", "noexec", "exec", "noatime", "atime", "relatime", "norelatime", "strictatime",
	"lazytime", "nolazytime", "nodiratime", "diratime", "async", "sync", "dirsync", "silent", "loud",
}

// applyOptions sets flags from a list in the form of fstab: names of flags without dashes, separated by
// commas. In helper mode a leading "rw" is ignored: mount(8) puts it there when nobody said ro or rw.
func applyOptions(flags *pflag.FlagSet, list string, helper bool) error {
	for i, o := range strings.Split(list, ",") {
		name, value, hasValue := strings.Cut(strings.TrimSpace(o), "=")
		switch {
		case name == "" && !hasValue, slices.Contains(ignored, name), strings.HasPrefix(name, "x-"), name == "comment":
			continue
		case name == "rw" && helper && i == 0:
			continue
		case name == "rw":
			return usagef("option rw: a pantala mount is read-only: use ro")
		}
		name = strings.ReplaceAll(name, "_", "-") // allow_other, as FUSE file systems call it
		f := flags.Lookup(name)
		if f == nil || name == "options" || name == "help" {
			return unknownOption(flags, name)
		}
		if !hasValue {
			if f.Value.Type() != "bool" {
				return usagef("option %s needs a value: %s=VALUE", name, name)
			}
			value = "true"
		}
		if name == "tracker" {
			value = strings.ReplaceAll(value, ";", ",") // a comma ends an option
			if f.Changed {
				value = f.Value.String() + "," + value
			}
		}
		if err := flags.Set(name, value); err != nil {
			return usagef("option %s: %s", name, oneLine(err.Error()))
		}
	}
	return nil
}

func unknownOption(flags *pflag.FlagSet, name string) error {
	known := append([]string{"rw"}, ignored...)
	flags.VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	if n, near := config.Nearest(name, known); near {
		return usagef("unknown mount option %q: did you mean %q?", name, n)
	}
	return usagef("unknown mount option %q: pantala mount --help lists them", name)
}
