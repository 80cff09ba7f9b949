package config

import (
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/tracker"
)

// A key is one setting: its name in the file, as a flag, and (in capitals, "_" for "-") after PANTALA_.
type key struct {
	name string
	set  func(*Config, any) error // the value as a string, or as YAML decoded it
}

// keys are all settings there are, sorted by name.
var keys = []key{
	{"allow-other", func(c *Config, v any) error { return boolean(&c.AllowOther, v) }},
	{"cacert", func(c *Config, v any) error { return text(&c.CACert, v) }},
	{"certs-dir", func(c *Config, v any) error { return path(&c.CertsDir, v) }},
	{"classes", func(c *Config, v any) error { return classes(&c.Classes, v) }},
	{"compress", func(c *Config, v any) error { return onOff(&c.Compress, v) }},
	{"dht", func(c *Config, v any) error { return onOff(&c.DHT, v) }},
	{"dht-bootstrap", func(c *Config, v any) error { return addresses(&c.Bootstrap, v) }},
	{"docker-config", func(c *Config, v any) error { return path(&c.DockerConfig, v) }},
	{"download-limit", func(c *Config, v any) error { return size(&c.DownloadLimit, v, 0) }},
	{"fill", func(c *Config, v any) error { return oneOf(&c.Fill, v, "never", "idle", "eager") }},
	{"hard", func(c *Config, v any) error { return boolean(&c.Hard, v) }},
	{"image-mount", func(c *Config, v any) error { return oneOf(&c.ImageMount, v, Auto, Devices, Loop, Files) }},
	{"index-keys", func(c *Config, v any) error { return paths(&c.IndexKeys, v) }},
	{"listen", func(c *Config, v any) error { return address(&c.Listen, v) }},
	{"log-level", func(c *Config, v any) error { return level(&c.LogLevel, v) }},
	{"lsd", func(c *Config, v any) error { return switched(&c.LSD, v) }},
	{"max-layer-ratio", func(c *Config, v any) error { return size(&c.MaxLayerRatio, v, 1) }},
	{"max-layer-size", func(c *Config, v any) error { return size(&c.MaxLayerSize, v, 1) }},
	{"memory", func(c *Config, v any) error { return size(&c.Memory, v, 1<<20) }},
	{"origin-limit", func(c *Config, v any) error { return size(&c.OriginLimit, v, 0) }},
	{"passthrough", func(c *Config, v any) error { return boolean(&c.Passthrough, v) }},
	{"pex", func(c *Config, v any) error { return onOff(&c.PEX, v) }},
	{"plain-http", func(c *Config, v any) error { return hosts(&c.PlainHTTP, v) }},
	{"quota", func(c *Config, v any) error { return size(&c.Quota, v, 0) }},
	{"role", func(c *Config, v any) error { return oneOf(&c.Role, v, Peer, Seed) }},
	{"snapshotter", func(c *Config, v any) error { return path(&c.Snapshotter, v) }},
	{"state", func(c *Config, v any) error { return text(&c.State, v) }},
	{"strict", func(c *Config, v any) error { return boolean(&c.Strict, v) }},
	{"tenants", func(c *Config, v any) error { return tenants(&c.Tenants, v) }},
	{"timeout", func(c *Config, v any) error { return duration(&c.Timeout, v) }},
	{"tracker", func(c *Config, v any) error { return trackers(&c.Trackers, v) }},
	{"upload-limit", func(c *Config, v any) error { return size(&c.UploadLimit, v, 0) }},
	{"zone", func(c *Config, v any) error { return zone(&c.Zone, v) }},
}

// Keys are the names of all settings, sorted.
func Keys() []string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.name
	}
	return names
}

func text(to *string, v any) error {
	s, ok := v.(string)
	if !ok || s == "" || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%v is not a text", v)
	}
	*to = s
	return nil
}

// path is text that may be empty, which means what holds by default.
func path(to *string, v any) error {
	if v == "" {
		*to = ""
		return nil
	}
	return text(to, v)
}

// paths are files, as a list or separated by commas. They become absolute: a daemon runs elsewhere than its command.
func paths(to *[]string, v any) error {
	all, err := list(v)
	if err != nil {
		return err
	}
	for i, s := range all {
		if s == "" || strings.ContainsRune(s, 0) {
			return fmt.Errorf("%v names no file", v)
		}
		if all[i], err = filepath.Abs(s); err != nil {
			return err
		}
	}
	*to = all
	return nil
}

func boolean(to *bool, v any) error {
	switch v := v.(type) {
	case bool:
		*to = v
		return nil
	case string:
		b, err := strconv.ParseBool(v)
		if err == nil {
			*to = b
			return nil
		}
	}
	return fmt.Errorf("%v is neither true nor false", v)
}

func oneOf(to *string, v any, words ...string) error {
	if s, ok := v.(string); ok && slices.Contains(words, s) {
		*to = s
		return nil
	}
	return fmt.Errorf("%v is none of %s", v, strings.Join(words, ", "))
}

// onOff takes the words of people and those of YAML.
func onOff(to *bool, v any) error {
	if s, ok := v.(string); ok && (s == On || s == Off) {
		*to = s == On
		return nil
	}
	if boolean(to, v) != nil {
		return fmt.Errorf("%v is neither on nor off", v)
	}
	return nil
}

// switched is onOff that may be left to the program.
func switched(to *string, v any) error {
	var on bool
	switch {
	case v == Auto:
		*to = Auto
	case onOff(&on, v) != nil:
		return fmt.Errorf("%v is none of on, off, auto", v)
	case on:
		*to = On
	default:
		*to = Off
	}
	return nil
}

// list takes texts as a list or separated by commas; an empty value switches off what a lower layer named.
func list(v any) (all []string, err error) {
	switch v := v.(type) {
	case string:
		all = strings.Split(v, ",")
	case []string:
		all = slices.Clone(v)
	case []any:
		for _, e := range v {
			s, _ := e.(string)
			all = append(all, s)
		}
	default:
		return nil, fmt.Errorf("%v is not a list", v)
	}
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	if len(all) == 1 && all[0] == "" {
		return nil, nil
	}
	return all, nil
}

// addresses are nodes to connect to: the port cannot be 0.
func addresses(to *[]string, v any) error {
	all, err := list(v)
	if err != nil {
		return err
	}
	for _, s := range all {
		host, port, err := net.SplitHostPort(s)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" {
			return fmt.Errorf("%q is not HOST:PORT, such as router.example.org:6881", s)
		}
	}
	*to = all
	return nil
}

// hosts are registries: HOST or HOST:PORT.
func hosts(to *[]string, v any) error {
	all, err := list(v)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s == "" || strings.ContainsAny(s, "/ @") {
			return fmt.Errorf("%q is not HOST or HOST:PORT, such as registry.example.org:5000", s)
		}
	}
	*to = all
	return nil
}

// address checks the form only; whether the port is free shows when it is opened.
func address(to *string, v any) error {
	s, _ := v.(string)
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%v is not HOST:PORT, such as 127.0.0.1:0 or :6881", v)
	}
	*to = s
	return nil
}

func level(to *slog.Level, v any) error {
	s, _ := v.(string)
	if to.UnmarshalText([]byte(s)) != nil {
		return fmt.Errorf("%v is none of debug, info, warn, error", v)
	}
	return nil
}

// duration wants a unit: a bare 30 in a file could be meant as seconds or as anything else.
func duration(to *time.Duration, v any) error {
	s, _ := v.(string)
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return fmt.Errorf("%v is not a time longer than zero with a unit, such as 30s or 2m", v)
	}
	*to = d
	return nil
}

func size(to *int64, v any, least int64) error {
	n, err := ParseSize(fmt.Sprint(v))
	if err != nil {
		return err
	}
	if n < least {
		return fmt.Errorf("%v is too little: at least %s", v, humanize.IBytes(uint64(least)))
	}
	*to = n
	return nil
}

// ParseSize reads a number of bytes with an optional unit: 4096, 200M (10^6), 10GiB (2^30).
func ParseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > 1<<62 {
		return 0, fmt.Errorf("%w: %q is not a size, such as 4096, 200M or 10GiB", blob.ErrInvalid, s)
	}
	return int64(n), nil
}

func zone(to *string, v any) error {
	s, ok := v.(string)
	if !ok {
		return fmt.Errorf("%v is not a text, such as eu/zone-a/rack-7/host-3", v)
	}
	z, err := tracker.ParseZone(s)
	if err == nil {
		*to = z
	}
	return err
}

// trackers takes URLs as a list or separated by commas.
func trackers(to *[]string, v any) error {
	all, err := list(v)
	if err != nil {
		return err
	}
	for _, s := range all {
		if err := tracker.CheckURL(s); err != nil {
			return err
		}
	}
	*to = all
	return nil
}
