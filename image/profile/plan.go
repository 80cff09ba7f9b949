package profile

// Plan lists what to fetch ahead, in order, until budget bytes are reached; length is the decoded length of a span in
// bytes, 0 when there is none such, which is left out.
func (p *Profile) Plan(length func(Touch) int64, budget int64) []Touch {
	var list []Touch
	for _, t := range p.Touches {
		n := length(t)
		if n <= 0 {
			continue
		}
		if budget -= n; budget < 0 {
			break
		}
		list = append(list, t)
	}
	return list
}
