-- ARGV: now or '', hold, about the most events to keep, draws, event or nothing
if is_settled() then return 0 end
call('SET', DONE, now, 'PX', DAY)
local record, draws, used = own_record(), cmsgpack.unpack(ARGV[4]), {}
for _, draw in ipairs(draws) do used[draw[KEY]] = draw[UNITS] end
local unheld = draws
if record then
  move(record, record[2] == 1 and staying(record, kept_of(record)), staying(record, used))
  for i = 3, #record, 5 do used[record[i]] = nil end
  unheld = {}
  for _, draw in ipairs(draws) do
    if used[draw[KEY]] then unheld[#unheld + 1] = draw end
  end
  call('HDEL', HOLDS, hold)
  if record[2] == 1 then call('ZREM', PAST, 'h' .. hold) else call('ZREM', ENDS, hold) end
end
for _, draw in ipairs(unheld[1] and locate(unheld) or unheld) do
  if kind(draw[FIELD]) ~= OPEN then add(draw[FIELD], draw[EDGE], draw[UNITS]) end
end
store()
if ARGV[5] then
  call('XADD', USAGE, 'MAXLEN', '~', ARGV[3], '*', 'event', ARGV[5])
  keep(now)
  if call('XLEN', USAGE) == 1 then call('PEXPIRE', USAGE, lives_to - now) end
end
return 1
