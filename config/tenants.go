package config

import (
	"fmt"
	"slices"
)

// tenantsForm is said when it is not that.
const tenantsForm = "a mapping in the configuration file, such as {training: {download: 100MB, upload: 20MB, origin: 50MB}}"

// maxConfigured bounds the tenants that a file may name.
const maxConfigured = 1000

// tenants reads the limits of tenants, by name. They have a place in the file only.
func tenants(to *map[string]Rates, v any) error {
	m, ok := v.(map[string]any)
	if !ok || len(m) > maxConfigured {
		return fmt.Errorf("%.40v is not %s", v, tenantsForm)
	}
	all := make(map[string]Rates, len(m))
	for name, v := range m {
		fields, ok := v.(map[string]any)
		if !ok && v != nil {
			return fmt.Errorf("tenant %q: %.40v is not %s", name, v, tenantsForm)
		}
		var r Rates
		for field, v := range fields {
			into := map[string]*int64{"upload": &r.Upload, "download": &r.Download, "origin": &r.Origin}
			if into[field] == nil {
				known := []string{"download", "origin", "upload"}
				if n, near := Nearest(field, known); near && !slices.Contains(known, field) {
					return fmt.Errorf("tenant %q: unknown limit %q: did you mean %q?", name, field, n)
				}
				return fmt.Errorf("tenant %q: unknown limit %q: known are download, origin, upload", name, field)
			}
			if err := size(into[field], v, 0); err != nil {
				return fmt.Errorf("tenant %q: %s: %w", name, field, err)
			}
		}
		all[name] = r
	}
	*to = all
	return nil
}
