package config

import (
	"fmt"
	"slices"

	"github.com/pantala/pantala/blob"
)

// tenantsForm and classesForm are said when it is not that.
const (
	tenantsForm = "a mapping in the configuration file, such as {training: {download: 100MB, upload: 20MB, origin: 50MB}}"
	classesForm = "a mapping in the configuration file, such as {background: {download: 100MB, upload: 20MB, origin: 50MB}}"
)

// maxConfigured bounds the tenants that a file may name.
const maxConfigured = 1000

// tenants reads the limits of tenants, by name. They have a place in the file only.
func tenants(to *map[string]Rates, v any) error {
	return rates(to, v, "tenant", tenantsForm)
}

// classes is the same by class.
func classes(to *map[string]Rates, v any) error {
	if err := rates(to, v, "class", classesForm); err != nil {
		return err
	}
	for name := range *to {
		if _, err := blob.ParseClass(name); err != nil {
			return err
		}
	}
	return nil
}

// rates reads limits by name.
func rates(to *map[string]Rates, v any, what, form string) error {
	m, ok := v.(map[string]any)
	if !ok || len(m) > maxConfigured {
		return fmt.Errorf("%.40v is not %s", v, form)
	}
	all := make(map[string]Rates, len(m))
	for name, v := range m {
		fields, ok := v.(map[string]any)
		if !ok && v != nil {
			return fmt.Errorf("%s %q: %.40v is not %s", what, name, v, form)
		}
		var r Rates
		for field, v := range fields {
			into := map[string]*int64{"upload": &r.Upload, "download": &r.Download, "origin": &r.Origin}
			if into[field] == nil {
				known := []string{"download", "origin", "upload"}
				if n, near := Nearest(field, known); near && !slices.Contains(known, field) {
					return fmt.Errorf("%s %q: unknown limit %q: did you mean %q?", what, name, field, n)
				}
				return fmt.Errorf("%s %q: unknown limit %q: known are download, origin, upload", what, name, field)
			}
			if err := size(into[field], v, 0); err != nil {
				return fmt.Errorf("%s %q: %s: %w", what, name, field, err)
			}
		}
		all[name] = r
	}
	*to = all
	return nil
}
