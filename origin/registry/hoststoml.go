package registry

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"golang.org/x/net/http/httpguts"
)

// hostTable is what hosts.toml says of one server (as containerd defines it).
type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a file, or a list of files
	Client       any            `toml:"client"` // a file, a list of files, or a list of pairs of files
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // a value, or a list of values
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// maxServers bounds the servers of one host: each may be waited for.
const maxServers = 32

// parseHosts reads a hosts.toml that lies in dir. own is the server of the host if the file does not say otherwise;
// what the file says outside of all tables [host] is about it. The result is never empty; the last is the own server.
func parseHosts(text []byte, dir string, own *server) ([]*server, error) {
	var file struct {
		hostTable
		Server string               `toml:"server"`
		Host   map[string]hostTable `toml:"host"`
	}
	if err := toml.Unmarshal(text, &file); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			row, col := at.Position()
			return nil, fmt.Errorf("line %d, column %d: %v", row, col, err)
		}
		return nil, err
	}
	names, err := hostOrder(text)
	if err != nil {
		return nil, err
	}
	var rest []string
	for name := range file.Host {
		if !slices.Contains(names, name) {
			rest = append(rest, name) // an inline table, which has no order
		}
	}
	slices.Sort(rest)
	names = slices.DeleteFunc(append(names, rest...), func(n string) bool { _, ok := file.Host[n]; return !ok })
	if len(names) >= maxServers {
		return nil, fmt.Errorf("%d hosts, and at most %d are asked", len(names), maxServers-1)
	}
	var servers []*server
	for _, name := range names {
		s, err := parseServer(name, file.Host[name], dir)
		if err != nil {
			return nil, fmt.Errorf("host %q: %v", clip(name), err)
		}
		s.mirror = s.base.Host != own.base.Host
		servers = append(servers, s)
	}
	if file.Server == "" {
		file.Server = own.base.Scheme + "://" + own.base.Host
	}
	last, err := parseServer(file.Server, file.hostTable, dir)
	if err != nil {
		return nil, fmt.Errorf("server %q: %v", clip(file.Server), err)
	}
	last.mirror = last.base.Host != own.base.Host
	if !last.mirror {
		last.account = own.account
	}
	return append(servers, last), nil
}

// hostOrder are the names of the tables [host."…"] in the order in which they stand in the file: it is the order in
// which they are tried, and a map does not keep it.
func hostOrder(text []byte) (names []string, err error) {
	var p unstable.Parser
	p.Reset(text)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table && e.Kind != unstable.KeyValue {
			continue
		}
		key := e.Key()
		if !key.Next() || string(key.Node().Data) != "host" || !key.Next() {
			continue
		}
		if name := string(key.Node().Data); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, p.Error()
}

// parseServer reads one server's address and table.
func parseServer(address string, t hostTable, dir string) (*server, error) {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("not an address of a server: expected https://HOST or http://HOST")
	}
	u.Host = strings.ToLower(u.Host)
	if u.Path != "" {
		u.Path = strings.TrimSuffix(path.Clean(u.Path), "/")
	}
	if !t.OverridePath && !strings.HasSuffix(u.Path, "/v2") {
		u.Path += "/v2"
	}
	u.RawPath = ""
	s := &server{base: u, account: u.Host, can: anything}
	if u.Host == hubAPI {
		s.account = hub
	}
	if len(t.Capabilities) > 0 {
		s.can = 0
	}
	for _, c := range t.Capabilities {
		switch strings.ToLower(c) {
		case "pull":
			s.can |= pull
		case "resolve":
			s.can |= resolve
		case "push":
			s.can |= push
		case "referrers":
			s.can |= referrers
		default:
			return nil, fmt.Errorf("capability %q: known are pull, resolve, push, referrers", clip(c))
		}
	}
	s.tls.SkipVerify = t.SkipVerify
	if t.DialTimeout != "" {
		if s.tls.DialTimeout, err = time.ParseDuration(t.DialTimeout); err != nil || s.tls.DialTimeout <= 0 {
			return nil, fmt.Errorf("dial_timeout %q: expected a time like \"5s\"", clip(t.DialTimeout))
		}
	}
	cas, err := texts("ca", t.CA)
	if err != nil {
		return nil, err
	}
	for _, ca := range cas {
		s.tls.CACerts = append(s.tls.CACerts, below(dir, ca))
	}
	if s.tls.Clients, err = pairs(t.Client, dir); err != nil {
		return nil, err
	}
	for name, v := range t.Header {
		values, err := texts("header "+name, v)
		if err != nil {
			return nil, err
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(v) {
				return nil, fmt.Errorf("header %q cannot be sent", clip(name))
			}
		}
		if s.header == nil {
			s.header = http.Header{}
		}
		s.header[http.CanonicalHeaderKey(name)] = values
	}
	return s, nil
}

// texts reads a text or a list of texts.
func texts(what string, v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var all []string
		for _, one := range v {
			s, ok := one.(string)
			if !ok {
				return nil, fmt.Errorf("%s: expected a text or a list of texts", clip(what))
			}
			all = append(all, s)
		}
		return all, nil
	}
	return nil, fmt.Errorf("%s: expected a text or a list of texts", clip(what))
}

// pairs reads "client": files that hold a certificate and its key, or pairs of such files.
func pairs(v any, dir string) (all [][2]string, err error) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, one := range list {
		files, err := texts("client", one)
		if err != nil || len(files) > 2 {
			return nil, errors.New("client: expected a file, a list of files, or a list of pairs of a certificate and its key")
		}
		switch len(files) {
		case 1:
			all = append(all, [2]string{below(dir, files[0]), ""})
		case 2:
			all = append(all, [2]string{below(dir, files[0]), below(dir, files[1])})
		}
	}
	return all, nil
}

// below is a path that may be relative to the file it stands in.
func below(dir, p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(dir, p)
}
