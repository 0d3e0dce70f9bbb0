-- ARGV: now or '', hold, draws, how long ago the call ended, event or nothing
if not call('SET', DONE, now, 'PX', MARK, 'NX') then
  if is_settled() then return 0 end
  call('SET', DONE, now, 'PX', MARK)
end
locate(ARGV[3], now - ARGV[4])
local publish, staying, kept_of, move = endings()
local record, used = own_record(), {}
for at = 1, LAST, WIDTH do used[draws[at + KEY]] = draws[at + UNITS] end
if record then
  local is_open = record[1] == 0
  move(record, not is_open and staying(record, kept_of(record)), staying(record, used), is_open and -1 or 0)
  for i = 2, #record, 5 do used[record[i]] = nil end
  call('HDEL', SUMS, own)
  if is_open then call('ZREM', ENDS, hold) else call('ZREM', PAST, own) end
end
for at = 1, LAST, WIDTH do
  local field, units = draws[at + FIELD], used[draws[at + KEY]]
  if units and kind(field) ~= OPEN then add(field, draws[at + EDGE], units, 0) end
end
store()
if ARGV[5] then publish(ARGV[5]) end
return 1
