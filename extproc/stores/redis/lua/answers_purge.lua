-- ARGV: now or ''. Begins another epoch, under which no claim of before is in force, and tells it. It deletes first, as
-- that is never refused for want of memory, nor is then what follows: who purges may want to make room.
local another = math.max(now, (tonumber(epoch) or 0) + 1)
call('DEL', EPOCH)
call('SET', EPOCH, string.format('%.0f', another), 'PX', EPOCH_LIFE)
counted()
return another
