-- ARGV: now or '', hold, life, draws, note. Of a call that is running: whether there is room or not.
if is_settled() then return 0 end
locate(ARGV[4], now)
local record, note = own_record()
record = record or {0}
if record[1] ~= 0 then
  local _, staying, kept_of, move = endings()
  move(record, staying(record, kept_of(record)), nil, 1)
  record[1] = 0
  call('ZREM', PAST, own)
end
lack(record)
give(record, note or ARGV[5])
return 1
