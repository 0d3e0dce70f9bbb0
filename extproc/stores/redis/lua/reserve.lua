-- ARGV: now or '', hold, life, draws, since, note
local since, first = ARGV[5], call('ZRANGE', ENDS, '0', '0', 'WITHSCORES')
local is_first = not first[1]
if not is_first and tonumber(first[2]) <= now then
  if has_forgotten(since, call('HGET', SUMS, 'since')) then return {2} end
  sweep(SWEEP)
  is_first = nil
end
locate(ARGV[4], now)
if has_forgotten(since, began) then return {2} end
local settled, record = is_settled(), own_record()
if settled or (record and record[1] == 0) then
  for at = 1, LAST, WIDTH do draws[at + UNITS] = 0 end
  return untaken(told(1))
end
if record then return untaken(told(0)) end
local all, fit = told(1)
if not fit then
  all[1] = 0
  return untaken(all)
end
record = {0, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}
return give(record, ARGV[6], all, is_first)
