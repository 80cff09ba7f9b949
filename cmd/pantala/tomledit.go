package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/pantala/pantala/blob"
)

// tomlFile is a TOML document that is changed in places: comments, order and spelling of everything else stay. Each
// change is checked by reading the whole document again: when it does not say exactly what it should, the change
// is refused, so what is too clever for this editor is left to a person.
type tomlFile struct {
	text string
	root map[string]any // what text says
}

// errTOML is what a person has to do by hand.
var errTOML = errors.New("cannot be changed safely")

func parseTOML(text string) (*tomlFile, error) {
	f := &tomlFile{text: text}
	return f, f.read()
}

func (f *tomlFile) read() error {
	f.root = map[string]any{}
	if err := toml.Unmarshal([]byte(f.text), &f.root); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, column := at.Position()
			return fmt.Errorf("%w: line %d, column %d: %w", blob.ErrInvalid, line, column, err)
		}
		return fmt.Errorf("%w: %w", blob.ErrInvalid, err)
	}
	return nil
}

// get is the value at a path, nil when there is none.
func (f *tomlFile) get(path ...string) any {
	var v any = f.root
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

// table is a header and the pairs below it; the first one has no header.
type table struct {
	path       []string
	array      bool
	head, body int // offsets of the header's line and of the line after it
	end        int // offset after the line of the last pair
	indent     string
	pairs      []pair
}

// pair is one key = value; its path is whole.
type pair struct {
	path       []string
	start, end int
	key        string // as written
}

// tables takes the document apart.
func (f *tomlFile) tables() ([]table, error) {
	all := []table{{}}
	var p unstable.Parser
	p.Reset([]byte(f.text))
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			path, first, _ := keyOf(e)
			t := table{path: path, array: e.Kind == unstable.ArrayTable, head: f.lineStart(first), body: f.lineEnd(first)}
			t.indent, t.end = f.indentAt(t.head), t.body
			all = append(all, t)
		case unstable.KeyValue:
			t := &all[len(all)-1]
			path, first, last := keyOf(e)
			start, end := int(e.Raw.Offset), int(e.Raw.Offset+e.Raw.Length)
			t.pairs = append(t.pairs, pair{slices.Concat(t.path, path), start, end, f.text[first:last]})
			t.end, t.indent = f.lineEnd(end), f.indentAt(f.lineStart(start))
		}
	}
	return all, p.Error()
}

func keyOf(e *unstable.Node) (path []string, first, last int) {
	for it := e.Key(); it.Next(); {
		n := it.Node()
		if len(path) == 0 {
			first = int(n.Raw.Offset)
		}
		last = int(n.Raw.Offset + n.Raw.Length)
		path = append(path, string(n.Data))
	}
	return path, first, last
}

func (f *tomlFile) lineStart(at int) int { return strings.LastIndexByte(f.text[:at], '\n') + 1 }

func (f *tomlFile) lineEnd(at int) int {
	if i := strings.IndexByte(f.text[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(f.text)
}

func (f *tomlFile) indentAt(line int) string {
	rest := f.text[line:]
	return rest[:len(rest)-len(strings.TrimLeft(rest, " \t"))]
}

// set gives the key at the end of path a value: a string, a bool or an integer.
func (f *tomlFile) set(value any, path ...string) error {
	if reflect.DeepEqual(f.get(path...), value) {
		return nil
	}
	want := deepCopy(f.root).(map[string]any)
	if !put(want, value, path) {
		return fmt.Errorf("%w: %s: something above it is not a table", errTOML, tomlKey(path))
	}
	all, err := f.tables()
	if err != nil {
		return err
	}
	for _, t := range all {
		for _, p := range t.pairs {
			if slices.Equal(p.path, path) {
				return f.replace(p.start, p.end, p.key+" = "+literal(value), want)
			}
		}
	}
	where, key := path[:len(path)-1], path[len(path)-1]
	for _, t := range all {
		if slices.Equal(t.path, where) && !t.array {
			indent := t.indent
			if len(t.pairs) == 0 && t.body > 0 {
				indent += "  "
			}
			return f.insert(t.end, indent+tomlKey([]string{key})+" = "+literal(value)+"\n", want)
		}
	}
	return f.insert(len(f.text), "\n["+tomlKey(where)+"]\n  "+tomlKey([]string{key})+" = "+literal(value)+"\n", want)
}

// element is one table of an array of tables: keys and values in order.
type element []struct {
	key   string
	value any
}

// add appends an element to the array of tables at path.
func (f *tomlFile) add(e element, path ...string) error {
	m := map[string]any{}
	for _, kv := range e {
		m[kv.key] = kv.value
	}
	want := deepCopy(f.root).(map[string]any)
	old, isArray := f.get(path...).([]any)
	if f.get(path...) != nil && !isArray || !put(want, append(slices.Clone(old), m), path) {
		return fmt.Errorf("%w: %s is not an array of tables", errTOML, tomlKey(path))
	}
	all, err := f.tables()
	if err != nil {
		return err
	}
	for _, t := range all {
		for _, p := range t.pairs {
			if !slices.Equal(p.path, path) {
				continue
			}
			// Written in one line, or over several, between [ and ].
			var inline []string
			for _, kv := range e {
				inline = append(inline, tomlKey([]string{kv.key})+" = "+literal(kv.value))
			}
			body := strings.TrimRight(strings.TrimSuffix(f.text[p.start:p.end], "]"), " \t\r\n")
			if len(old) > 0 {
				body = strings.TrimSuffix(body, ",") + ", "
			}
			return f.replace(p.start, p.end, body+"{ "+strings.Join(inline, ", ")+" }]", want)
		}
	}
	text := "\n[[" + tomlKey(path) + "]]\n"
	for _, kv := range e {
		text += "  " + tomlKey([]string{kv.key}) + " = " + literal(kv.value) + "\n"
	}
	return f.insert(len(f.text), text, want)
}

func (f *tomlFile) insert(at int, text string, want map[string]any) error {
	if at > 0 && f.text[at-1] != '\n' {
		text = "\n" + text
	} else if at == 0 {
		text = strings.TrimPrefix(text, "\n")
	}
	return f.replace(at, at, text, want)
}

// replace changes the text, if it then says what it should.
func (f *tomlFile) replace(start, end int, text string, want map[string]any) error {
	g := &tomlFile{text: f.text[:start] + text + f.text[end:]}
	if err := g.read(); err != nil {
		return fmt.Errorf("%w: %w", errTOML, err)
	}
	if !reflect.DeepEqual(g.root, want) {
		return fmt.Errorf("%w: %q would change more than it should", errTOML, strings.TrimSpace(text))
	}
	*f = *g
	return nil
}

// put sets a value in a tree of maps; false when a scalar is in the way.
func put(m map[string]any, value any, path []string) bool {
	for _, p := range path[:len(path)-1] {
		if m[p] == nil {
			m[p] = map[string]any{}
		}
		next, ok := m[p].(map[string]any)
		if !ok {
			return false
		}
		m = next
	}
	m[path[len(path)-1]] = value
	return true
}

func deepCopy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		c := make(map[string]any, len(v))
		for k, e := range v {
			c[k] = deepCopy(e)
		}
		return c
	case []any:
		c := make([]any, len(v))
		for i, e := range v {
			c[i] = deepCopy(e)
		}
		return c
	}
	return v
}

// literal writes a value. What strconv quotes is a basic string of TOML: paths and names have no characters that
// the two escape differently, and replace would notice.
func literal(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(v)
}

// tomlKey writes a dotted key.
func tomlKey(path []string) string {
	parts := make([]string, len(path))
	for i, p := range path {
		parts[i] = p
		if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			parts[i] = strconv.Quote(p)
		}
	}
	return strings.Join(parts, ".")
}
