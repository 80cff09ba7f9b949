package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"

	"github.com/pantala/pantala/blob"
)

// Input is where the values come from.
type Input struct {
	File  string            // a configuration file that must exist; "": PANTALA_CONFIG, else the usual places
	Env   []string          // "NAME=value", as of os.Environ
	Flags map[string]string // the flags that were given, by key
	UID   int               // whose defaults hold
}

// maxFile bounds a configuration file in bytes; a useful one has a few hundred.
const maxFile = 1 << 20

// Load reads the file, checks every key and value of every layer, and puts the layers over each other.
func Load(in Input) (Config, error) {
	getenv := func(name string) string {
		for _, e := range in.Env {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return v
			}
		}
		return ""
	}
	layers := []layer{}
	path, data, err := readFile(in, getenv)
	if err != nil {
		return Config{}, err
	}
	if path != "" {
		l, err := parseFile(path, data)
		if err != nil {
			return Config{}, err
		}
		layers = append(layers, l)
	}
	env, err := fromEnv(in.Env)
	if err != nil {
		return Config{}, err
	}
	flags := layer{values: map[string]any{}, where: func(k string) string { return "flag --" + k }}
	for k, v := range in.Flags {
		flags.values[k] = v
	}
	c, err := merge(Default(in.UID, getenv), append(layers, env, flags))
	if err != nil {
		return Config{}, err
	}
	if path != "" {
		if c.file, err = filepath.Abs(path); err != nil {
			return Config{}, fmt.Errorf("%w: configuration file: %v: name it by an absolute path", blob.ErrInvalid, err)
		}
	}
	if c.State, err = filepath.Abs(c.State); err != nil {
		return Config{}, fmt.Errorf("%w: state directory: %v: name it by an absolute path", blob.ErrInvalid, err)
	}
	return c, nil
}

// layer is one place that values come from.
type layer struct {
	values map[string]any
	where  func(key string) string // how errors and Config.From name a value of this layer
}

// merge puts the layers over the defaults, the last one on top. A bad value is an error in every layer, even
// when another one covers it.
func merge(c Config, layers []layer) (Config, error) {
	c.from = map[string]string{}
	k := koanf.New(".")
	for _, l := range layers {
		for name, v := range l.values {
			set, err := lookup(name)
			if err != nil {
				return Config{}, fmt.Errorf("%s: %w", l.where(name), err)
			}
			scratch := Config{}
			if err := set(&scratch, v); err != nil {
				return Config{}, fmt.Errorf("%w value: %s: %w", blob.ErrInvalid, l.where(name), err)
			}
			c.from[name] = l.where(name)
		}
		// Values are flat and hold no maps, so loading cannot fail but for a bug.
		if err := k.Load(confmap.Provider(l.values, ""), nil); err != nil {
			return Config{}, fmt.Errorf("%w configuration: %v", blob.ErrInvalid, err)
		}
	}
	for _, key := range keys {
		if !k.Exists(key.name) {
			continue
		}
		if err := key.set(&c, k.Get(key.name)); err != nil {
			return Config{}, fmt.Errorf("%w value: %s: %w", blob.ErrInvalid, c.from[key.name], err)
		}
	}
	return c, nil
}

// lookup finds a key by name, or says which one it is near to.
func lookup(name string) (func(*Config, any) error, error) {
	for _, k := range keys {
		if k.name == name {
			return k.set, nil
		}
	}
	return nil, unknown("key", name, Keys())
}

func unknown(what, name string, known []string) error {
	if n, near := Nearest(name, known); near {
		return fmt.Errorf("%w: unknown %s %q: did you mean %q?", blob.ErrInvalid, what, name, n)
	}
	return fmt.Errorf("%w: unknown %s %q: known are %s", blob.ErrInvalid, what, name, strings.Join(known, ", "))
}

// readFile returns the configuration file to use; path is "" when there is none.
func readFile(in Input, getenv func(string) string) (path string, data []byte, err error) {
	candidates, must := defaultFiles(in.UID, getenv), false
	if f := getenv("PANTALA_CONFIG"); f != "" {
		candidates, must = []string{f}, true
	}
	if in.File != "" {
		candidates, must = []string{in.File}, true
	}
	for _, path := range candidates {
		st, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !must:
			continue
		case err != nil:
			return "", nil, unreadable(err, in)
		case st.Size() > maxFile || !st.Mode().IsRegular():
			return "", nil, fmt.Errorf("%w: configuration file %s is not a regular file of at most %d bytes", blob.ErrInvalid, path, maxFile)
		}
		if data, err = os.ReadFile(path); err != nil {
			return "", nil, unreadable(err, in)
		}
		return path, data, nil
	}
	return "", nil, nil
}

// unreadable says what to do about a configuration file that cannot be read; err names it.
func unreadable(err error, in Input) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("configuration file: %w: create it, or name another one with --config", err)
	}
	return fmt.Errorf("configuration file: %w: make it, and the directories above it, readable for user id %d, or name another one with --config", err, in.UID)
}

// parseFile reads YAML: a flat map from keys to values.
func parseFile(path string, data []byte) (layer, error) {
	values, err := yaml.Parser().Unmarshal(data)
	if err != nil {
		return layer{}, fmt.Errorf("%w: configuration file %s: %s", blob.ErrInvalid, path, oneLine(err.Error()))
	}
	l := layer{values: values, where: func(k string) string { return path + ": " + k }}
	for name := range values {
		if strings.ContainsRune(name, '.') {
			return layer{}, fmt.Errorf("%s: %w", path, unknown("key", name, Keys()))
		}
	}
	return l, nil
}

// fromEnv picks the PANTALA_* variables. Kubernetes sets PANTALA_[X_]SERVICE_* and PANTALA_[X_]PORT* in
// every pod beside a service of our name; those are not ours.
func fromEnv(env []string) (layer, error) {
	l := layer{values: map[string]any{}, where: func(k string) string { return envName(k) }}
	known := []string{"PANTALA_CONFIG"}
	for _, k := range keys {
		known = append(known, envName(k.name))
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		rest, ours := strings.CutPrefix(name, "PANTALA_")
		if !ours || name == "PANTALA_CONFIG" || value == "" || kubernetes(rest) {
			continue
		}
		key := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		if _, err := lookup(key); err != nil || envName(key) != name {
			return layer{}, unknown("variable", name, known)
		}
		l.values[key] = value
	}
	return l, nil
}

func kubernetes(rest string) bool {
	for _, mark := range []string{"SERVICE_HOST", "SERVICE_PORT", "PORT"} {
		if rest == mark || strings.HasPrefix(rest, mark+"_") || strings.HasSuffix(rest, "_"+mark) || strings.Contains(rest, "_"+mark+"_") {
			return true
		}
	}
	return false
}

func envName(key string) string {
	return "PANTALA_" + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
