package origin

import (
	"net/http"
	"strings"
	"time"
)

// validator is what an answer says about the version of the object (RFC 9110 section 8.8).
type validator struct {
	etag     string // with quotes, without W/
	weak     bool   // the ETag had W/
	modified string // Last-Modified as it was sent
	settled  bool   // Last-Modified cannot stand for two versions: see below
}

// validatorOf reads the validator of an answer. Malformed parts count as absent.
func validatorOf(h http.Header) (v validator) {
	tag := strings.TrimSpace(h.Get("ETag"))
	if opaque, weak := strings.CutPrefix(tag, "W/"); wellFormed(opaque) {
		v.etag, v.weak = opaque, weak
	}
	modified, err := http.ParseTime(h.Get("Last-Modified"))
	if err != nil {
		return v
	}
	v.modified = h.Get("Last-Modified")
	// Last-Modified has a resolution of one second, so an object that was written in the second in which it
	// was asked for may be written again under the same date. RFC 9110 section 8.8.2.2 takes a date for a
	// strong validator when Date is at least one second later; without Date our own clock must do, with a
	// minute for the difference between the two clocks.
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		v.settled = date.Sub(modified) >= time.Second
	} else {
		v.settled = time.Since(modified) >= time.Minute
	}
	return v
}

// wellFormed reports whether s is an opaque-tag of RFC 9110 section 8.8.3.
func wellFormed(s string) bool {
	if len(s) < 2 || len(s) > 1024 || s[0] != '"' || s[len(s)-1] != '"' {
		return false
	}
	for _, c := range []byte(s[1 : len(s)-1]) {
		if c == '"' || c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// strong reports whether the ETag alone names the bytes.
func (v validator) strong() bool { return v.etag != "" && !v.weak }

// String is the validator as it enters a blob.ID: "" when nothing names the version. A weak ETag counts only
// beside Last-Modified.
func (v validator) String() string {
	switch {
	case v.strong():
		return v.etag
	case v.modified == "":
		return ""
	case v.weak:
		return "W/" + v.etag + " " + v.modified
	}
	return v.modified
}

// shown is String for texts.
func (v validator) shown() string {
	if s := v.String(); s != "" {
		return s
	}
	return "none"
}

// stable reports whether String may name the bytes beyond this Open.
func (v validator) stable() bool { return v.strong() || v.modified != "" && v.settled }

// sameness is the outcome of comparing two validators.
type sameness uint8

const (
	same    sameness = iota // the same version
	differs                 // another version
	unclear                 // the answer does not say
)

// compare says whether an answer with validator got is of the version v was taken from.
func (v validator) compare(got validator) sameness {
	if v.String() == "" {
		return same // nothing to go by; only the size is checked
	}
	sameDate := v.modified != "" && v.modified == got.modified
	if v.strong() {
		switch {
		case got.etag == "":
			return unclear
		case got.etag != v.etag:
			return differs
		case got.weak && !sameDate:
			return unclear
		}
		return same // Apache calls the tag of a file of this second weak, and strong a second later
	}
	switch {
	case got.modified == "":
		return unclear
	case !sameDate, v.etag != "" && got.etag != "" && v.etag != got.etag:
		return differs
	}
	return same
}
