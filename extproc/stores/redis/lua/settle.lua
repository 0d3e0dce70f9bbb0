-- ARGV: now or '', hold, draws, how long ago the call ended, event or nothing
if is_settled() then return 0 end
call('SET', DONE, now, 'PX', MARK)
local record, draws, used = own_record(), cmsgpack.unpack(ARGV[3]), {}
for _, draw in ipairs(draws) do used[draw[KEY]] = draw[UNITS] end
local unheld = draws
if record then
  local is_open = record[1] == 0
  move(record, not is_open and staying(record, kept_of(record)), staying(record, used), is_open and -1 or 0)
  for i = 2, #record, 5 do used[record[i]] = nil end
  unheld = {}
  for _, draw in ipairs(draws) do
    if used[draw[KEY]] then unheld[#unheld + 1] = draw end
  end
  call('HDEL', HOLDS, hold)
  if is_open then call('ZREM', ENDS, hold) else call('ZREM', PAST, 'h' .. hold) end
end
for _, draw in ipairs(unheld[1] and locate(unheld, now - ARGV[4]) or unheld) do
  if kind(draw[FIELD]) ~= OPEN then add(draw[FIELD], draw[EDGE], draw[UNITS], 0) end
end
store()
if ARGV[5] then publish(ARGV[5]) end
return 1
